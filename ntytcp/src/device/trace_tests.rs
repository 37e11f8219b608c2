use super::*;
use crate::device::TxChecksum;
use crate::device::mem::{self, MemConfig};
use crate::device::pcap::{About, CaptureReader};
use crate::device::testing::{FullDisk, TempFile};

fn read(path: &Path) -> Vec<(u128, Option<Direction>, Vec<u8>)> {
    let mut reader = CaptureReader::open(path).unwrap();
    let (mut got, mut frame) = (Vec::new(), Vec::new());
    while let Some(info) = reader.next_frame(&mut frame).unwrap() {
        got.push((info.timestamp.as_millis(), info.direction, std::mem::take(&mut frame)));
    }
    got
}

fn send(device: &mut impl Device, frame: &[u8], meta: TxMeta) {
    device.reserve(frame.len()).unwrap().copy_from_slice(frame);
    device.commit(meta);
    device.flush().unwrap();
}

#[test]
fn trace_shows_both_directions_with_their_times() {
    let file = TempFile::new("pcapng");
    let (a, mut b) = mem::pair(MemConfig::offloading());
    let mut a = Trace::new(a, file.path(), Duration::from_secs(100)).unwrap();
    let partial = TxMeta { checksum: TxChecksum::Partial { start: 0, offset: 2 }, gso: None };
    a.set_now(Instant::from_millis(1));
    send(&mut a, &[1, 2, 0, 0], partial);
    send(&mut b, b"request", TxMeta::default());
    a.set_now(Instant::from_millis(2));
    a.rx_burst(&mut |burst| {
        assert!(burst[0].set_len(6));
        burst[0].bytes_mut().copy_from_slice(b"answer");
        burst[0].verdict = Verdict::Reply(TxMeta::default());
    })
    .unwrap();
    a.flush().unwrap();
    assert_eq!(a.stats().last(), Some(&("traced", 3)));
    drop(a);
    assert_eq!(
        read(file.path()),
        [
            (100_001, Some(Direction::Outbound), vec![1, 2, 0xfe, 0xfd]),
            (100_002, Some(Direction::Inbound), b"request".to_vec()),
            (100_002, Some(Direction::Outbound), b"answer".to_vec()),
        ]
    );
    // On the link itself the checksum stays partial.
    let mut got = Vec::new();
    b.rx_burst(&mut |burst| got.extend(burst.iter().map(|f| (f.bytes().to_vec(), f.meta.checksum)))).unwrap();
    assert_eq!(got[0], (vec![1, 2, 0, 0], RxChecksum::Partial { start: 0, offset: 2 }));
    assert_eq!(got[1].0, b"answer");
}

#[test]
fn trace_reaches_the_file_once_a_second_without_being_asked() {
    let file = TempFile::new("pcapng");
    let mut a = Trace::new(mem::pair(MemConfig::default()).0, file.path(), Duration::ZERO).unwrap();
    send(&mut a, b"first", TxMeta::default());
    a.set_now(Instant::from_millis(1_000));
    a.flush().unwrap();
    assert_eq!(read(file.path()).len(), 1);
}

#[test]
fn frame_that_the_device_refuses_is_not_traced() {
    let file = TempFile::new("pcap");
    let (a, _b) = mem::pair(MemConfig::default().ring(2));
    let mut a = Trace::new(a, file.path(), Duration::ZERO).unwrap();
    send(&mut a, b"1", TxMeta::default());
    send(&mut a, b"2", TxMeta::default());
    assert!(a.reserve(1).is_none());
    a.commit(TxMeta::default());
    drop(a);
    assert_eq!(read(file.path()).len(), 2);
}

#[test]
fn full_disk_ends_the_trace_and_not_the_link() {
    let (a, mut b) = mem::pair(MemConfig::default());
    let disk = Box::new(FullDisk(10_000));
    let writer = PcapWriter::to(disk, Path::new("full.pcap"), Duration::ZERO, &About::default());
    let mut a = Trace::with_writer(a, writer.unwrap());
    for n in 0..100_u8 {
        send(&mut a, &[n; 1000], TxMeta::default());
        let mut got = Vec::new();
        b.rx_burst(&mut |burst| got.extend_from_slice(burst[0].bytes())).unwrap();
        assert_eq!(got, [n; 1000]);
    }
    assert!(!a.is_tracing());
    a.sync().unwrap();
}
