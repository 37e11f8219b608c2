//! The loop of `nty replay`.

use super::answers::Answers;
use super::{Expect, Options};
use crate::arp;
use crate::device::{Stop, sleep, transmit};
use crate::pace::{Pace, Place};
use crate::run::{RunError, print};
use ntytcp::device::pcap::CaptureReader;
use ntytcp::device::spec::{BoxedDevice, OpenOptions};
use ntytcp::device::{BURST, DeviceError};
use ntytcp::shard::MonotonicClock;
use ntytcp::time::Clock as _;
use ntytcp::wire::{EtherType, EthernetHeader, Ipv4Header, MacAddr};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What the capture holds, made ready to be sent.
struct Capture {
    frames: Vec<(Duration, Vec<u8>)>,
    /// From the first frame of a loop to the first of the next.
    period: Duration,
    /// Frames that the capture has only the beginning of.
    cut: u64,
    /// Frames that the device cannot carry: those of a capture behind segmentation offload, for instance.
    long: u64,
    /// Who sends from which address.
    senders: HashMap<Ipv4Addr, MacAddr>,
}

/// What happened.
#[derive(Default)]
struct Tally {
    sent: Place,
    received: u64,
    received_bytes: u64,
    arp: u64,
    answers: Answers,
}

/// Sends the capture.
///
/// # Errors
/// A capture that cannot be read, a device that cannot be opened or is gone; [`RunError::Failed`] when not all was answered that
/// should be, which was printed then.
pub fn run(options: &Options) -> Result<(), RunError> {
    let mut capture = load(options)?;
    let mut device = options.device.open(&OpenOptions::default())?;
    capture.leave_out_longer(device.caps().mtu)?;
    let stop = Stop::on_signals()?;
    let (clock, start) = (MonotonicClock::new(), Instant::now());
    let mut tally = Tally::default();
    send(options, &capture, &mut device, (&clock, &stop), &mut tally)?;
    let took = start.elapsed();
    linger(options, &capture, &mut device, (&clock, &stop), &mut tally)?;
    device.sync()?;
    let (text, complete) = report(options, &capture, &tally, took);
    print(&text)?;
    if complete { Ok(()) } else { Err(RunError::Failed("replay")) }
}

fn load(options: &Options) -> Result<Capture, RunError> {
    let mut reader = CaptureReader::open(&options.file)?;
    let (mut frames, mut cut, mut senders) = (Vec::new(), 0, HashMap::new());
    let (mut frame, mut first, mut last) = (Vec::new(), None, Duration::ZERO);
    while let Some(info) = reader.next_frame(&mut frame)? {
        if (frame.len() as u64) < u64::from(info.original_len) {
            cut += 1;
            frame.clear();
            continue;
        }
        options.rewrite.apply(&mut frame);
        let first = *first.get_or_insert(info.timestamp);
        // Frames out of order are sent in the order of the file.
        last = info.timestamp.saturating_sub(first).max(last);
        senders.extend(sender(&frame));
        frames.push((last, std::mem::take(&mut frame)));
    }
    if frames.is_empty() {
        let what = format!("{} holds no whole frame: there is nothing to send", options.file.display());
        return Err(RunError::Device(DeviceError::Config(what)));
    }
    let gap = last.checked_div(frames.len() as u32 - 1).unwrap_or_default();
    Ok(Capture { frames, period: last + gap, cut, long: 0, senders })
}

impl Capture {
    /// Leaves out the frames whose packet is longer than `mtu`.
    fn leave_out_longer(&mut self, mtu: usize) -> Result<(), RunError> {
        let before = self.frames.len();
        self.frames.retain(|(_, frame)| {
            EthernetHeader::parse(frame).map_or(frame.len(), |(_, packet)| packet.len()) <= mtu
        });
        self.long = (before - self.frames.len()) as u64;
        if self.frames.is_empty() {
            let what =
                format!("every frame is longer than the device's MTU of {mtu}: there is nothing to send");
            return Err(RunError::Device(DeviceError::Config(what)));
        }
        Ok(())
    }
}

/// The address and the station that a frame with IPv4 comes from.
fn sender(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let (link, packet) = EthernetHeader::parse(frame).ok()?;
    let (ip, _) = Ipv4Header::parse(packet).ok().filter(|_| link.ethertype == EtherType::IPV4)?;
    Some((ip.src, link.src))
}

fn send(
    options: &Options,
    capture: &Capture,
    device: &mut BoxedDevice,
    (clock, stop): (&MonotonicClock, &Stop),
    tally: &mut Tally,
) -> Result<(), RunError> {
    let (pace, start) = (Pace::from(options.pace), Instant::now());
    for round in 0..options.loops {
        let begin = capture.period.saturating_mul(u32::try_from(round).unwrap_or(u32::MAX));
        let mut burst = 0;
        for (captured, frame) in &capture.frames {
            tally.sent.captured = begin.saturating_add(*captured);
            let due = pace.due(tally.sent);
            loop {
                if stop.is_asked() {
                    return Ok(());
                }
                let early = due.saturating_sub(start.elapsed());
                if early.is_zero() && burst < BURST && transmit(device, frame) {
                    burst += 1;
                    break;
                }
                burst = 0;
                turn(options, capture, device, (clock, early), tally)?;
            }
            tally.sent.frames += 1;
            tally.sent.bytes += frame.len() as u64;
            if options.expect == Some(Expect::Dns) {
                tally.answers.on_sent(frame);
            }
        }
    }
    Ok(device.flush()?)
}

/// Waits for what is still to come.
fn linger(
    options: &Options,
    capture: &Capture,
    device: &mut BoxedDevice,
    (clock, stop): (&MonotonicClock, &Stop),
    tally: &mut Tally,
) -> Result<(), RunError> {
    let start = Instant::now();
    loop {
        let left = options.linger.duration().saturating_sub(start.elapsed());
        let done = options.expect.is_some() && tally.answers.is_complete();
        if done || left.is_zero() || stop.is_asked() {
            return Ok(device.flush()?);
        }
        turn(options, capture, device, (clock, left), tally)?;
    }
}

/// Sends what was written, takes in what has arrived, and sleeps if that was nothing, at most for `limit`.
fn turn(
    options: &Options,
    capture: &Capture,
    device: &mut BoxedDevice,
    (clock, limit): (&MonotonicClock, Duration),
    tally: &mut Tally,
) -> Result<(), DeviceError> {
    device.set_now(clock.now());
    device.flush()?;
    if receive(options, capture, device, tally)? == 0 {
        sleep([&mut *device], limit);
    }
    Ok(())
}

fn receive(
    options: &Options,
    capture: &Capture,
    device: &mut BoxedDevice,
    tally: &mut Tally,
) -> Result<usize, DeviceError> {
    device.rx_burst(&mut |frames| {
        for frame in frames {
            tally.received += 1;
            tally.received_bytes += frame.len() as u64;
            if options.expect == Some(Expect::Dns) {
                tally.answers.on_received(frame.bytes());
            }
            if !options.no_arp && arp::answer(frame, |ip| capture.senders.get(&ip).copied()) {
                tally.arp += 1;
            }
        }
    })
}

/// What there is to say at the end, and whether all was answered that should be.
fn report(options: &Options, capture: &Capture, tally: &Tally, took: Duration) -> (String, bool) {
    let Tally { sent, received, received_bytes, arp, answers } = tally;
    let seconds = took.as_secs_f64().max(1e-9);
    let mut text = String::new();
    let (pps, mbps) = (sent.frames as f64 / seconds, sent.bytes as f64 * 8e-6 / seconds);
    let _ = writeln!(
        text,
        "sent {} frames, {} bytes in {seconds:.3} s: {pps:.0} frames/s, {mbps:.1} Mb/s",
        sent.frames, sent.bytes
    );
    if capture.cut > 0 {
        let _ = writeln!(text, "left out {} frames of which the capture has only the beginning", capture.cut);
    }
    if capture.long > 0 {
        let _ =
            writeln!(text, "left out {} frames that are longer than the device's MTU allows", capture.long);
    }
    let _ = writeln!(text, "received {received} frames, {received_bytes} bytes; answered {arp} ARP requests");
    if options.expect == Some(Expect::Dns) {
        let Answers { queries, answered, strange, .. } = answers;
        let lost = queries - answered;
        let _ = writeln!(
            text,
            "dns: {queries} queries, {answered} answered, {lost} not, {strange} unasked answers"
        );
    }
    (text, answers.is_complete())
}
