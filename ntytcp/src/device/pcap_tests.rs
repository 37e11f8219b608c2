use super::*;
use crate::device::testing::{FullDisk, TempFile};

fn frames() -> Vec<(Instant, Direction, Vec<u8>)> {
    (0..150_u64)
        .map(|n| {
            let direction = if n % 3 == 0 { Direction::Outbound } else { Direction::Inbound };
            (Instant::from_nanos(n * 1_000_000_007), direction, vec![n as u8; 60 + n as usize])
        })
        .collect()
}

/// A capture of `frames()` with the extension `ext`.
fn capture(ext: &str) -> TempFile {
    let file = TempFile::new(ext);
    let mut writer = PcapWriter::create(file.path(), Duration::from_secs(1_000_000_000)).unwrap();
    for (at, direction, frame) in frames() {
        writer.write(at, direction, &frame).unwrap();
    }
    file
}

/// Everything up to the end or the first error.
fn read(path: &Path) -> (Vec<(CaptureInfo, Vec<u8>)>, Option<DeviceError>) {
    let mut got = Vec::new();
    let mut reader = match CaptureReader::open(path) {
        Ok(reader) => reader,
        Err(e) => return (got, Some(e)),
    };
    loop {
        let mut frame = Vec::new();
        match reader.next_frame(&mut frame) {
            Ok(Some(info)) => got.push((info, frame)),
            Ok(None) => return (got, None),
            Err(e) => return (got, Some(e)),
        }
    }
}

#[test]
fn both_formats_give_back_what_was_written() {
    for ext in ["pcap", "pcapng"] {
        let file = capture(ext);
        let (got, error) = read(file.path());
        assert!(error.is_none());
        assert_eq!(got.len(), 150);
        for ((info, frame), (at, direction, written)) in got.into_iter().zip(frames()) {
            assert_eq!(frame, written);
            assert_eq!(info.timestamp, Duration::from_secs(1_000_000_000) + at.since(Instant::ZERO));
            assert_eq!(info.original_len as usize, written.len());
            assert_eq!(info.direction, (ext == "pcapng").then_some(direction));
        }
    }
}

#[test]
fn what_is_beyond_the_snap_length_is_left_out_and_the_length_kept() {
    for ext in ["pcap", "pcapng"] {
        let file = TempFile::new(ext);
        let about = About { interface: "eth0".into(), filter: "udp port 53".into(), snaplen: 64 };
        let mut writer = PcapWriter::create_about(file.path(), Duration::ZERO, &about).unwrap();
        let time = Duration::new(1_700_000_000, 123_456_789);
        writer.write_at(time, Direction::Outbound, &[7; 60]).unwrap();
        writer.write_at(time, Direction::Inbound, &[8; 1_000]).unwrap();
        drop(writer);
        let (got, error) = read(file.path());
        assert!(error.is_none());
        let lens: Vec<_> = got.iter().map(|(info, frame)| (frame.len(), info.original_len)).collect();
        assert_eq!(lens, [(60, 60), (64, 1_000)]);
        assert!(got.iter().all(|(info, _)| info.timestamp == time));
        let bytes = std::fs::read(file.path()).unwrap();
        for text in ["eth0", "udp port 53"] {
            let named = bytes.windows(text.len()).any(|w| w == text.as_bytes());
            assert_eq!(named, ext == "pcapng", "{text}");
        }
    }
}

#[test]
fn a_replayed_frame_has_its_time_and_its_direction() {
    let file = capture("pcapng");
    let mut device = PcapDevice::open(file.path(), None, 1500).unwrap();
    let mut got = Vec::new();
    while device.rx_burst(&mut |burst| got.extend(burst.iter().map(|f| f.meta))).unwrap() > 0 {}
    assert_eq!(got.len(), 150);
    for (meta, (at, direction, _)) in got.into_iter().zip(frames()) {
        assert_eq!(meta.outgoing, direction == Direction::Outbound);
        assert_eq!(meta.timestamp.unwrap().get(), 1_000_000_000_000_000_000 + at.as_nanos());
    }
}

#[test]
fn truncation_anywhere_yields_the_whole_packets_then_one_line() {
    for ext in ["pcap", "pcapng"] {
        let file = capture(ext);
        let bytes = std::fs::read(file.path()).unwrap();
        for len in (0..2_000).step_by(7) {
            let cut = TempFile::new(ext);
            std::fs::write(cut.path(), &bytes[..len]).unwrap();
            let (got, error) = read(cut.path());
            for ((_, frame), (_, _, written)) in got.iter().zip(frames()) {
                assert_eq!(*frame, written);
            }
            let Some(error) = error else { continue };
            let message = error.to_string();
            assert!(
                message.contains(&cut.path().display().to_string()) && !message.contains('\n'),
                "{message}"
            );
            let packet = format!("truncated in packet {}", got.len() + 1);
            let expected = match len {
                0..4 => "is no pcap",
                _ if message.contains("header") => "truncated in its header",
                _ => &packet,
            };
            assert!(message.contains(expected), "{len} bytes: {message}");
        }
    }
}

#[test]
fn damage_never_panics() {
    for ext in ["pcap", "pcapng"] {
        let file = capture(ext);
        let bytes = std::fs::read(file.path()).unwrap();
        for at in 0..600 {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes[..1500].to_vec();
                damaged[at] ^= flip;
                let copy = TempFile::new(ext);
                std::fs::write(copy.path(), &damaged).unwrap();
                read(copy.path());
            }
        }
    }
}

#[test]
fn other_link_types_and_other_files_are_refused_with_a_remedy() {
    let file = capture("pcap");
    let mut bytes = std::fs::read(file.path()).unwrap();
    bytes[20..24].copy_from_slice(&101_u32.to_ne_bytes());
    std::fs::write(file.path(), &bytes).unwrap();
    let message = read(file.path()).1.unwrap().to_string();
    assert!(message.contains("link type 101") && message.contains("not Ethernet"), "{message}");

    std::fs::write(file.path(), "GET / HTTP/1.1\r\n\r\n").unwrap();
    let message = read(file.path()).1.unwrap().to_string();
    assert!(message.contains("is no pcap or pcapng file"), "{message}");
    let message = read(Path::new("/nonexistent/x.pcap")).1.unwrap().to_string();
    assert!(message.starts_with("cannot read /nonexistent/x.pcap: No such file"), "{message}");
}

#[test]
fn big_endian_microseconds_and_cut_frames_are_read() {
    let file = TempFile::new("pcap");
    let mut bytes = vec![0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 1];
    for field in [5_u32, 250_000, 96, 1514] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend([9; 96]);
    std::fs::write(file.path(), &bytes).unwrap();
    let (got, error) = read(file.path());
    assert!(error.is_none());
    assert_eq!((got[0].0.timestamp, got[0].0.original_len), (Duration::from_millis(5_250), 1514));
    assert_eq!(got[0].1, [9; 96]);
}

#[test]
fn device_replays_a_capture_and_records_the_answers() {
    let (input, output) = (capture("pcapng"), TempFile::new("pcap"));
    let mut device = PcapDevice::open(input.path(), Some(output.path()), 1500).unwrap();
    device.set_now(Instant::from_millis(3));
    let (mut got, mut bursts) = (Vec::new(), Vec::new());
    loop {
        let burst = device.rx_burst(&mut |burst| {
            got.extend(burst.iter().map(|f| f.bytes().to_vec()));
            assert!(burst[0].set_len(1000) && burst[0].prepend(4));
            burst[0].bytes_mut().fill(0xaa);
            burst[0].verdict = Verdict::Reply(TxMeta::default());
        });
        match burst.unwrap() {
            0 => break,
            n => bursts.push((n, device.last_burst().len())),
        }
    }
    assert!(device.is_finished() && device.is_exhausted());
    assert_eq!(bursts, [(64, 64), (64, 64), (22, 22)]);
    assert_eq!(got, frames().into_iter().map(|f| f.2).collect::<Vec<_>>());
    device.reserve(4).unwrap().copy_from_slice(&[1, 2, 0, 0]);
    device.commit(TxMeta { checksum: TxChecksum::Partial { start: 0, offset: 2 }, gso: None });
    assert!(device.reserve(1500 + MAX_L2_HEADER + 1).is_none());
    device.flush().unwrap();
    drop(device);
    let (written, error) = read(output.path());
    assert!(error.is_none());
    let written: Vec<_> =
        written.into_iter().map(|(info, frame)| (info.timestamp.as_millis(), frame)).collect();
    assert_eq!(written[..3], vec![(3, vec![0xaa; 1004]); 3]);
    assert_eq!(written[3..], [(3, vec![1, 2, 0xfe, 0xfd])]);
}

#[test]
fn truncated_capture_is_received_up_to_the_cut() {
    let file = capture("pcap");
    let bytes = std::fs::read(file.path()).unwrap();
    std::fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
    let mut device = PcapDevice::open(file.path(), None, 1500).unwrap();
    let mut count = 0;
    let error = loop {
        match device.rx_burst(&mut |_| {}) {
            Ok(n) => {
                assert!(n > 0, "the cut was not noticed");
                assert!(!device.is_exhausted(), "the cut is yet to be told");
                count += n;
            }
            Err(e) => break e,
        }
    };
    assert_eq!(count, 149);
    assert!(error.to_string().contains("truncated in packet 150: capture again, or keep"), "{error}");
}

#[test]
fn output_must_not_be_the_input() {
    let file = capture("pcap");
    let before = std::fs::read(file.path()).unwrap();
    let error = PcapDevice::open(file.path(), Some(file.path()), 1500).unwrap_err();
    assert!(error.to_string().contains("name another output"), "{error}");
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

/// A replay of `capture` whose output has room for `room` bytes.
fn on_full_disk(capture: &TempFile, room: usize) -> Result<PcapDevice, DeviceError> {
    let writer =
        PcapWriter::to(Box::new(FullDisk(room)), Path::new("out.pcap"), Duration::ZERO, &About::default())?;
    Ok(PcapDevice::new(CaptureReader::open(capture.path())?, Some(writer), 1500))
}

fn send(device: &mut PcapDevice) -> Result<(), DeviceError> {
    device.reserve(1000).unwrap().fill(0);
    device.commit(TxMeta::default());
    device.flush()
}

const FULL: &str =
    "cannot write out.pcap: no storage space (is the disk full? free some space, or name another file)";

#[test]
fn full_disk_is_told_at_open_by_flush_and_by_sync() {
    let input = capture("pcap");
    assert_eq!(on_full_disk(&input, 0).unwrap_err().to_string(), FULL);

    let mut device = on_full_disk(&input, 10_000).unwrap();
    assert_eq!((0..100).try_for_each(|_| send(&mut device)).unwrap_err().to_string(), FULL);
    assert_eq!(send(&mut device).unwrap_err().to_string(), FULL, "and again");
    assert_eq!(device.sync().unwrap_err().to_string(), FULL);

    let mut device = on_full_disk(&input, 100).unwrap();
    send(&mut device).unwrap();
    assert_eq!(device.sync().unwrap_err().to_string(), FULL);
}

#[test]
fn full_disk_is_told_when_a_reply_cannot_be_written() {
    let mut device = on_full_disk(&capture("pcap"), 100).unwrap();
    let outcome = device.rx_burst(&mut |burst| {
        for frame in burst {
            assert!(frame.set_len(1500));
            frame.verdict = Verdict::Reply(TxMeta::default());
        }
    });
    assert_eq!(outcome.unwrap_err().to_string(), FULL);
}

#[test]
fn file_can_be_read_at_any_time() {
    for ext in ["pcap", "pcapng"] {
        let file = TempFile::new(ext);
        let mut writer = PcapWriter::create(file.path(), Duration::ZERO).unwrap();
        let (mut seen, mut sizes) = (0, Vec::new());
        for (at, direction, frame) in frames() {
            let (got, error) = read(file.path());
            assert!(error.is_none() && got.len() >= seen, "{error:?}");
            seen = got.len();
            sizes.push(seen);
            writer.write(at, direction, &frame).unwrap();
        }
        sizes.dedup();
        assert!(sizes.len() > 1, "{ext}: nothing was written before the end");
        writer.flush().unwrap();
        assert_eq!(read(file.path()).0.len(), 150);
    }
}
