//! Capture files as a device: what was captured is received, what is sent is written to another capture.
//!
//! Both formats, pcap and pcapng, of either byte order and time resolution are read; the extension of the file name
//! decides what is written. Frames must be Ethernet. Nothing that a file contains makes the reader panic: a cut or damaged
//! file yields its sound packets, then one error that names file and packet.
//!
//! This device allocates and makes system calls; it is for replay and tests, not for speed.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use arrayvec::ArrayVec;
use pcap_file::pcap::{PcapHeader, PcapReader};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::offload::complete_checksum;
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RxFrame, RxMeta, TxChecksum, TxMeta, TxQueue,
    Verdict,
};
use crate::time::{Duration, Instant};

/// The most bytes of one frame that are written; longer ones cannot exist on the devices of this crate.
const SNAPLEN: u32 = 262_144;

/// How many bytes of records are gathered before they are written.
const GATHERED: usize = 16 * 1024;

/// Where a captured frame came from and what the capture says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureInfo {
    /// Time since 1970, or since whatever origin the capturing program had. Zero where the file has none.
    pub timestamp: Duration,
    /// Length of the frame on the wire; more than was captured when the capture cut it.
    pub original_len: u32,
    /// Whether the frame was received or sent by the machine that captured it, where the file says so.
    pub direction: Option<Direction>,
}

impl CaptureInfo {
    /// The same as a device says it; that a frame was cut is lost.
    fn meta(&self) -> RxMeta {
        let nanos = u64::try_from(self.timestamp.as_nanos()).ok();
        RxMeta {
            outgoing: self.direction == Some(Direction::Outbound),
            timestamp: nanos.and_then(NonZeroU64::new),
            ..RxMeta::default()
        }
    }
}

/// Which way a frame went, from the point of view of the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
}

/// Reads the frames of a capture file, one after the other.
pub struct CaptureReader {
    path: PathBuf,
    format: Format,
    /// Packets read so far.
    packets: u64,
}

enum Format {
    Legacy(PcapReader<File>),
    Ng(PcapNgReader<File>),
}

impl std::fmt::Debug for CaptureReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureReader")
            .field("path", &self.path)
            .field("packets", &self.packets)
            .finish_non_exhaustive()
    }
}

impl CaptureReader {
    /// Opens a capture and checks its header.
    ///
    /// # Errors
    /// A file that cannot be read, is no capture, or is one of another link type than Ethernet.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DeviceError> {
        let path = path.as_ref().to_path_buf();
        let io_error =
            |source| DeviceError::Io { what: format!("cannot read {}", path.display()), source, remedy: "" };
        let mut file = File::open(&path).map_err(io_error)?;
        let mut magic = [0; 4];
        let filled = file.read(&mut magic).and_then(|n| file.rewind().map(|()| n)).map_err(io_error)?;
        let no_capture = || {
            let advice = "is no pcap or pcapng file: capture with `tcpdump -w` or convert with `editcap`";
            DeviceError::Config(format!("{} {advice}", path.display()))
        };
        let known = [
            [0xa1, 0xb2, 0xc3, 0xd4],
            [0xd4, 0xc3, 0xb2, 0xa1],
            [0xa1, 0xb2, 0x3c, 0x4d],
            [0x4d, 0x3c, 0xb2, 0xa1],
        ];
        let format = if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
            Format::Ng(PcapNgReader::new(file).map_err(|e| bad_header(&path, &e))?)
        } else if filled == 4 && known.contains(&magic) {
            let reader = PcapReader::new(file).map_err(|e| bad_header(&path, &e))?;
            ethernet(&path, reader.header().datalink)?;
            Format::Legacy(reader)
        } else {
            return Err(no_capture());
        };
        Ok(Self { path, format, packets: 0 })
    }

    /// Appends the next frame to `frame` and says what is known of it; `None` at the end of the file.
    ///
    /// # Errors
    /// The file ends inside a packet, is damaged, or holds a frame that is not Ethernet. The reader is not to be used after that.
    pub fn next_frame(&mut self, frame: &mut Vec<u8>) -> Result<Option<CaptureInfo>, DeviceError> {
        let number = self.packets + 1;
        let info = match &mut self.format {
            Format::Legacy(reader) => next_legacy(reader, frame).map_err(|e| damaged(&self.path, number, &e)),
            Format::Ng(reader) => next_ng(&self.path, reader, number, frame),
        }?;
        self.packets += u64::from(info.is_some());
        Ok(info)
    }
}

/// Refuses what is not Ethernet.
fn ethernet(path: &Path, link: DataLink) -> Result<(), DeviceError> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    let (path, number) = (path.display(), u32::from(link));
    Err(DeviceError::Config(format!(
        "{path} holds frames of link type {number} ({link:?}), not Ethernet: capture on an Ethernet interface, not on `any` or a tunnel"
    )))
}

/// What is wrong with a file that begins as captures do.
fn bad_header(path: &Path, error: &PcapError) -> DeviceError {
    let path = path.display();
    DeviceError::Config(match error {
        PcapError::IncompleteBuffer => format!("{path}: truncated in its header: capture again"),
        PcapError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("{path}: truncated in its header: capture again")
        }
        other => format!("{path}: its header is damaged ({other}): capture again"),
    })
}

/// What is wrong with the file, and where.
fn damaged(path: &Path, number: u64, error: &PcapError) -> DeviceError {
    let path = path.display();
    let remedy = match number - 1 {
        0 => "capture again".to_owned(),
        sound => {
            format!("capture again, or keep what is before it with `editcap -r {path} OUT 1-{sound}`")
        }
    };
    DeviceError::Config(match error {
        PcapError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("{path}: truncated in packet {number}: {remedy}")
        }
        PcapError::IncompleteBuffer => format!("{path}: packet {number} is damaged: {remedy}"),
        PcapError::IoError(e) => format!("{path}: cannot read packet {number}: {e}"),
        other => format!("{path}: packet {number} is damaged ({other}): {remedy}"),
    })
}

fn next_legacy(reader: &mut PcapReader<File>, frame: &mut Vec<u8>) -> Result<Option<CaptureInfo>, PcapError> {
    let nanos = if reader.header().ts_resolution == TsResolution::NanoSecond { 1 } else { 1_000 };
    // Not the library's parsed packet: that refuses every frame that was longer than the snap length.
    let Some(packet) = reader.next_raw_packet().transpose()? else { return Ok(None) };
    frame.extend_from_slice(&packet.data);
    let timestamp =
        Duration::from_secs(packet.ts_sec.into()) + Duration::from_nanos(u64::from(packet.ts_frac) * nanos);
    Ok(Some(CaptureInfo { timestamp, original_len: packet.orig_len, direction: None }))
}

/// The next packet of whatever block type; other blocks are skipped.
fn next_ng(
    path: &Path,
    reader: &mut PcapNgReader<File>,
    number: u64,
    frame: &mut Vec<u8>,
) -> Result<Option<CaptureInfo>, DeviceError> {
    const OBSOLETE_PACKET: u32 = 2;
    const SIMPLE_PACKET: u32 = 3;
    const ENHANCED_PACKET: u32 = 6;
    loop {
        // Raw blocks: names, statistics and whatever else a file contains are nothing to trip over.
        let block = match reader.next_raw_block().transpose().map_err(|e| damaged(path, number, &e))? {
            None => return Ok(None),
            Some(block) if [OBSOLETE_PACKET, SIMPLE_PACKET, ENHANCED_PACKET].contains(&block.type_) => {
                (block.type_, block.body.into_owned())
            }
            Some(_) => continue,
        };
        let little = reader.section().endianness == Endianness::Little;
        let fields = Fields { body: &block.1, little };
        let packet = match block.0 {
            SIMPLE_PACKET => fields.simple(),
            OBSOLETE_PACKET => fields.timed(fields.u16(0).map(u32::from)),
            _ => fields.timed(fields.u32(0)),
        };
        let bad = || damaged(path, number, &PcapError::IncompleteBuffer);
        let packet = packet.ok_or_else(bad)?;
        let interface = reader.interfaces().get(packet.interface as usize).ok_or_else(bad)?;
        ethernet(path, interface.linktype)?;
        frame.extend_from_slice(packet.data);
        let timestamp = timestamp(packet.ticks, interface);
        let direction = packet.flags.and_then(|flags| match flags & 3 {
            1 => Some(Direction::Inbound),
            2 => Some(Direction::Outbound),
            _ => None,
        });
        return Ok(Some(CaptureInfo { timestamp, original_len: packet.original_len, direction }));
    }
}

/// The body of a pcapng packet block, in the byte order of its section.
struct Fields<'a> {
    body: &'a [u8],
    little: bool,
}

struct NgPacket<'a> {
    interface: u32,
    ticks: u64,
    original_len: u32,
    data: &'a [u8],
    flags: Option<u32>,
}

impl<'a> Fields<'a> {
    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.body.get(at..at + 2)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.body.get(at..at + 4)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// An Enhanced or (obsolete) Packet Block: they differ in the interface number only.
    fn timed(&self, interface: Option<u32>) -> Option<NgPacket<'a>> {
        let ticks = u64::from(self.u32(4)?) << 32 | u64::from(self.u32(8)?);
        let len = self.u32(12)? as usize;
        let data = self.body.get(20..)?.get(..len)?;
        let flags = self.flags(20 + len.next_multiple_of(4));
        Some(NgPacket { interface: interface?, ticks, original_len: self.u32(16)?, data, flags })
    }

    /// A Simple Packet Block: no time, first interface, and the padding not told from the data.
    fn simple(&self) -> Option<NgPacket<'a>> {
        let original_len = self.u32(0)?;
        let body = self.body.get(4..)?;
        let data = body.get(..original_len as usize).unwrap_or(body);
        Some(NgPacket { interface: 0, ticks: 0, original_len, data, flags: None })
    }

    /// The flags option (code 2), if there is one in the options that start at `at`.
    fn flags(&self, mut at: usize) -> Option<u32> {
        loop {
            match (self.u16(at)?, self.u16(at + 2)?) {
                (2, 4) => return self.u32(at + 4),
                (0, _) => return None,
                (_, len) => at += 4 + usize::from(len).next_multiple_of(4),
            }
        }
    }
}

/// Ticks of the interface's own resolution as a duration; out of all proportion is zero.
fn timestamp(ticks: u64, interface: &InterfaceDescriptionBlock<'_>) -> Duration {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(r) => Some(*r),
        _ => None,
    });
    let per_second = match resolution.unwrap_or(6) {
        r if r & 0x80 != 0 => 1_u128.checked_shl(u32::from(r & 0x7f)),
        r => 10_u128.checked_pow(u32::from(r)),
    };
    let nanos = per_second.filter(|&p| p > 0).map(|p| u128::from(ticks) * 1_000_000_000 / p);
    nanos.and_then(|n| u64::try_from(n).ok()).map(Duration::from_nanos).unwrap_or_default()
}

/// Writes frames to a capture file: pcapng if the name ends in `.pcapng`, pcap with nanoseconds otherwise.
///
/// Only whole records go into the file, its header at once and frames when enough of them are gathered, with
/// [`PcapWriter::flush`], or when the writer is dropped: the file can be read at any time, also after the process was killed.
/// After a write that failed every other fails too; one that fails when the writer is dropped is logged.
pub struct PcapWriter {
    path: PathBuf,
    output: Box<dyn Write + Send>,
    records: Records,
    origin: Duration,
    snaplen: usize,
    /// What the first write that failed said.
    failed: Option<std::io::ErrorKind>,
}

/// What the header of a capture says of its frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// Where they were captured; only pcapng has a place for it. Default empty: not said.
    pub interface: String,
    /// Which were captured, of those that passed; only pcapng has a place for it. Default empty: all.
    pub filter: String,
    /// How many bytes of each are kept, at most. Default and maximum 262,144.
    pub snaplen: u32,
}

impl Default for About {
    fn default() -> Self {
        Self { interface: String::new(), filter: String::new(), snaplen: SNAPLEN }
    }
}

/// Records that are not in the file yet.
enum Records {
    Legacy(Vec<u8>),
    Ng(PcapNgWriter<Vec<u8>>),
}

impl Records {
    /// The header of the file.
    fn new(is_ng: bool, about: &About) -> Result<Self, PcapError> {
        if is_ng {
            let mut writer = PcapNgWriter::new(Vec::new())?;
            let mut options = vec![InterfaceDescriptionOption::IfTsResol(9)];
            if !about.interface.is_empty() {
                options.push(InterfaceDescriptionOption::IfName(about.interface.as_str().into()));
            }
            if !about.filter.is_empty() {
                // Code 0: the filter is a text.
                let text = [&[0], about.filter.as_bytes()].concat();
                options.push(InterfaceDescriptionOption::IfFilter(text.into()));
            }
            let linktype = DataLink::ETHERNET;
            let block = InterfaceDescriptionBlock { linktype, snaplen: about.snaplen, options };
            writer.write_pcapng_block(block)?;
            return Ok(Self::Ng(writer));
        }
        let header = PcapHeader {
            snaplen: about.snaplen,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let mut bytes = Vec::new();
        header.write_to(&mut bytes)?;
        Ok(Self::Legacy(bytes))
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Legacy(bytes) => bytes,
            Self::Ng(writer) => writer.get_mut(),
        }
    }
}

impl std::fmt::Debug for PcapWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcapWriter")
            .field("path", &self.path)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl PcapWriter {
    /// Creates the file, or empties it, and writes its header. `origin` is added to the times of all frames: the time since
    /// 1970 at [`Instant::ZERO`], or zero for a simulation.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(path: impl AsRef<Path>, origin: Duration) -> Result<Self, DeviceError> {
        let path = path.as_ref();
        Self::create_about(path, origin, &About::default())
    }

    /// The same, with what the header of a pcapng file can say of the frames.
    ///
    /// # Errors
    /// As [`PcapWriter::create`].
    pub fn create_about(
        path: impl AsRef<Path>,
        origin: Duration,
        about: &About,
    ) -> Result<Self, DeviceError> {
        let path = path.as_ref();
        let file = File::create(path).map_err(|source| DeviceError::Io {
            what: format!("cannot write {}", path.display()),
            source,
            remedy: "name a file that can be written",
        })?;
        Self::to(Box::new(file), path, origin, about)
    }

    /// Writes to `output`, such as standard output; `path` decides about the format, and is named in messages.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn to(
        output: Box<dyn Write + Send>,
        path: &Path,
        origin: Duration,
        about: &About,
    ) -> Result<Self, DeviceError> {
        let is_ng = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pcapng"));
        let records = Records::new(is_ng, about).map_err(|e| write_failed(path, into_io(e)))?;
        let snaplen = about.snaplen.min(SNAPLEN) as usize;
        let mut writer = Self { path: path.to_path_buf(), output, records, origin, snaplen, failed: None };
        match writer.flush() {
            Ok(()) => Ok(writer),
            Err(source) => Err(write_failed(path, source)),
        }
    }

    /// The name of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a frame. The direction is lost in a pcap file, which has no place for it.
    ///
    /// # Errors
    /// The file cannot be written; the disk may be full.
    pub fn write(&mut self, now: Instant, direction: Direction, frame: &[u8]) -> std::io::Result<()> {
        self.write_at(self.origin.saturating_add(now.since(Instant::ZERO)), direction, frame)
    }

    /// The same with a time of the frame's own, since 1970.
    ///
    /// # Errors
    /// As [`PcapWriter::write`].
    pub fn write_at(
        &mut self,
        timestamp: Duration,
        direction: Direction,
        frame: &[u8],
    ) -> std::io::Result<()> {
        if let Some(kind) = self.failed {
            return Err(kind.into());
        }
        let original_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let frame = frame.get(..self.snaplen).unwrap_or(frame);
        let len = frame.len() as u32;
        match &mut self.records {
            Records::Legacy(bytes) => {
                let seconds = u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX);
                let record = [seconds, timestamp.subsec_nanos(), len, original_len].map(u32::to_ne_bytes);
                bytes.extend_from_slice(record.as_flattened());
                bytes.extend_from_slice(frame);
            }
            Records::Ng(writer) => {
                let flags = match direction {
                    Direction::Inbound => 1,
                    Direction::Outbound => 2,
                };
                let block = EnhancedPacketBlock {
                    interface_id: 0,
                    timestamp,
                    original_len,
                    data: frame.into(),
                    options: vec![EnhancedPacketOption::Flags(flags)],
                };
                writer.write_pcapng_block(block).map_err(into_io)?;
            }
        }
        if self.records.bytes().len() < GATHERED { Ok(()) } else { self.flush() }
    }

    /// Brings everything written so far into the file.
    ///
    /// # Errors
    /// The file cannot be written; the disk may be full.
    pub fn flush(&mut self) -> std::io::Result<()> {
        if let Some(kind) = self.failed {
            return Err(kind.into());
        }
        let bytes = self.records.bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        let outcome = self.output.write_all(bytes).and_then(|()| self.output.flush());
        // Part of it may be in the file: it must not be written again.
        bytes.clear();
        self.failed = outcome.as_ref().err().map(std::io::Error::kind);
        outcome
    }
}

impl Drop for PcapWriter {
    fn drop(&mut self) {
        if self.failed.is_none()
            && let Err(error) = self.flush()
        {
            tracing::warn!("the end of {} is lost: {error} ({DISK_FULL})", self.path.display());
        }
    }
}

/// What to do when a file that could be written no longer can.
const DISK_FULL: &str = "is the disk full? free some space, or name another file";

fn write_failed(path: &Path, source: std::io::Error) -> DeviceError {
    DeviceError::Io { what: format!("cannot write {}", path.display()), source, remedy: DISK_FULL }
}

/// The system's error behind the library's.
fn into_io(error: PcapError) -> std::io::Error {
    match error {
        PcapError::IoError(e) => e,
        other => std::io::Error::other(other),
    }
}

/// A capture as a device. See the module documentation.
///
/// Frames are received as fast as they are asked for; [`PcapDevice::last_burst`] has the times for whoever wants to keep
/// the original pace. At the end of the file, which is logged as a warning, nothing more is received; what is sent is
/// still written.
#[derive(Debug)]
pub struct PcapDevice {
    reader: Option<CaptureReader>,
    /// Found behind the frames of the last burst, and to be told with the next.
    failure: Option<DeviceError>,
    writer: Option<PcapWriter>,
    caps: Caps,
    now: Instant,
    bufs: Vec<Vec<u8>>,
    infos: Vec<CaptureInfo>,
    open: Option<Vec<u8>>,
    spare: Vec<u8>,
    cut: u64,
    unwritten: u64,
}

impl PcapDevice {
    /// Receives from the capture `input` and writes what is sent to `output`; without one it is counted and thrown away.
    ///
    /// # Errors
    /// As [`CaptureReader::open`] and [`PcapWriter::create`]; also when both are the same file.
    pub fn open(input: &Path, output: Option<&Path>, mtu: usize) -> Result<Self, DeviceError> {
        let reader = CaptureReader::open(input)?;
        if let Some(output) = output
            && let (Ok(a), Ok(b)) = (input.canonicalize(), output.canonicalize())
            && a == b
        {
            let (i, o) = (input.display(), output.display());
            return Err(DeviceError::Config(format!(
                "pcap:{i},{o}: reads and overwrites the same file; name another output"
            )));
        }
        let writer = output.map(|path| PcapWriter::create(path, Duration::ZERO)).transpose()?;
        Ok(Self::new(reader, writer, mtu))
    }

    fn new(reader: CaptureReader, writer: Option<PcapWriter>, mtu: usize) -> Self {
        Self {
            reader: Some(reader),
            failure: None,
            writer,
            caps: Caps::plain(mtu),
            now: Instant::ZERO,
            bufs: vec![Vec::new(); BURST],
            infos: Vec::with_capacity(BURST),
            open: None,
            spare: Vec::new(),
            cut: 0,
            unwritten: 0,
        }
    }

    /// Whether every frame of the capture was received.
    pub fn is_finished(&self) -> bool {
        self.reader.is_none() && self.failure.is_none()
    }

    /// What the capture says of the frames of the last burst, in order.
    pub fn last_burst(&self) -> &[CaptureInfo] {
        &self.infos
    }

    /// Reads up to a burst into `bufs`; stops at the end and before damage.
    fn read_burst(&mut self) {
        self.infos.clear();
        let Some(reader) = &mut self.reader else { return };
        for buf in &mut self.bufs {
            buf.clear();
            buf.resize(HEADROOM, 0);
            match reader.next_frame(buf) {
                Ok(Some(info)) => {
                    self.cut += u64::from(buf.len() - HEADROOM < info.original_len as usize);
                    self.infos.push(info);
                }
                Ok(None) => {
                    tracing::warn!(
                        "the capture {} is at its end after {} frames: nothing more will be received",
                        reader.path.display(),
                        reader.packets
                    );
                    self.reader = None;
                    return;
                }
                Err(e) => {
                    self.failure = Some(e);
                    self.reader = None;
                    return;
                }
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DeviceError> {
        let Some(writer) = &mut self.writer else {
            self.unwritten += 1;
            return Ok(());
        };
        writer.write(self.now, Direction::Outbound, frame).map_err(|e| write_failed(writer.path(), e))
    }
}

impl TxQueue for PcapDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let mut buf = self.open.take().unwrap_or_else(|| std::mem::take(&mut self.spare));
        if len > self.caps.mtu + MAX_L2_HEADER {
            self.spare = buf;
            return None;
        }
        buf.resize(len, 0);
        Some(self.open.insert(buf))
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(mut frame) = self.open.take() else { return };
        complete(&mut frame, meta);
        if let Err(e) = self.send(&frame) {
            self.failure.get_or_insert(e);
        }
        self.spare = frame;
    }
}

fn complete(frame: &mut [u8], meta: TxMeta) {
    if let TxChecksum::Partial { start, offset } = meta.checksum {
        complete_checksum(frame, start, offset);
    }
}

impl Device for PcapDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        if let Some(e) = self.failure.take() {
            return Err(e);
        }
        self.read_burst();
        if self.infos.is_empty() {
            return self.failure.take().map_or(Ok(0), Err);
        }
        let room = HEADROOM + self.caps.mtu + MAX_L2_HEADER;
        let mut bufs = std::mem::take(&mut self.bufs);
        let mut frames: ArrayVec<RxFrame<'_>, BURST> = bufs
            .iter_mut()
            .zip(&self.infos)
            .map(|(buf, info)| {
                let len = buf.len() - HEADROOM;
                buf.resize(buf.len().max(room), 0);
                RxFrame::new(buf, HEADROOM, len, info.meta())
            })
            .collect();
        sink(&mut frames);
        let count = frames.len();
        let mut outcome = Ok(count);
        for frame in &mut frames {
            if let Verdict::Reply(meta) = frame.verdict {
                complete(frame.bytes_mut(), meta);
                outcome = outcome.and_then(|n| self.send(frame.bytes()).map(|()| n));
            }
        }
        drop(frames);
        self.bufs = bufs;
        outcome
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        // What a capture is damaged by is told by rx_burst, once its sound frames were received.
        match &self.failure {
            Some(DeviceError::Io { .. }) => self.failure.take().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        self.flush()?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.flush().map_err(|e| write_failed(writer.path(), e))
    }

    fn is_exhausted(&self) -> bool {
        self.is_finished()
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        vec![("pcap-rx-cut", self.cut), ("pcap-tx-unwritten", self.unwritten)]
    }
}

#[cfg(test)]
#[path = "pcap_tests.rs"]
mod tests;
