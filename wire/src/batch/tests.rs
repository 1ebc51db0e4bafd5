//! Batches read back as they were built; bytes that are no batch are refused with a reason.

use super::*;

fn record<'a>() -> RequestRecord<'a> {
    RequestRecord {
        timestamp: 1_700_000_000_123_456_789,
        network_protocol_name: Protocol::Mysql,
        client_address: "10.0.0.1".parse().unwrap(),
        client_port: 40_000,
        server_address: "fd00::2".parse().unwrap(),
        server_port: 3306,
        service_name: "shop",
        k8s_pod_name: "shop-1",
        source: SourceKind::Pcap,
        side: Side::Client,
        time_to_first_byte_ns: Some(0),
        time_to_last_byte_ns: Some(7_000),
        status: Status::ServerError,
        completeness: Completeness::Partial,
        db_query_text: "select ?",
        db_query_parameters: vec!["1", "two"],
        ..RequestRecord::default()
    }
}

fn builder() -> BatchBuilder {
    let resource = proto::Resource { k8s_pod_name: "shop-1".to_owned(), ..proto::Resource::default() };
    BatchBuilder::new("sender".to_owned(), [7; 16], resource)
}

#[test]
fn round_trip() {
    let mut builder = builder();
    let plain = RequestRecord { timestamp: 5, k8s_pod_name: "shop-1", ..RequestRecord::default() };
    for sequence in 1..3 {
        builder.push(&record());
        builder.push(&plain);
        let encoded = builder.finish(sequence, 9, Vec::new());
        assert_eq!((encoded.sequence, encoded.rows), (sequence, 2));
        let decoded = DecodedBatch::decode(&encoded.bytes).unwrap();
        assert_eq!(decoded.sender().sequence, sequence);
        assert_eq!(decoded.records().collect::<Vec<_>>(), vec![record(), plain.clone()]);
    }
}

#[test]
fn many_texts_keep_their_places() {
    let mut builder = builder();
    for sequence in 1..4u64 {
        let texts: Vec<String> = (0..3000 * sequence).map(|number| format!("/{}", number % 2500)).collect();
        for text in &texts {
            builder.push(&RequestRecord { url_path: text, url_template: "/{id}", ..RequestRecord::default() });
        }
        let encoded = builder.finish(sequence, 9, Vec::new());
        let batch = proto::RecordBatch::decode(encoded.bytes.as_slice()).unwrap();
        assert_eq!(batch.strings.len(), 2502, "each text once, and the empty one");
        let decoded = DecodedBatch::decode(&encoded.bytes).unwrap();
        assert!(decoded.records().zip(&texts).all(|(record, text)| record.url_path == text && record.url_template == "/{id}"));
    }
}

#[test]
fn an_empty_batch_carries_counters() {
    let counters = vec![proto::CounterSample { name: "podtap_dropped_total".to_owned(), reason: "gap".to_owned(), value: 3 }];
    let encoded = builder().finish(1, 2, counters.clone());
    let decoded = DecodedBatch::decode(&encoded.bytes).unwrap();
    assert_eq!((decoded.rows(), decoded.counters()), (0, counters.as_slice()));
}

/// Changes a good batch and expects an error.
fn check(change: impl FnOnce(&mut proto::RecordBatch), expect: DecodeError) {
    let mut builder = builder();
    builder.push(&record());
    let mut batch = proto::RecordBatch::decode(builder.finish(1, 2, Vec::new()).bytes.as_slice()).unwrap();
    change(&mut batch);
    assert_eq!(DecodedBatch::decode(&batch.encode_to_vec()).unwrap_err(), expect);
}

#[test]
fn bad_batches_are_refused() {
    check(|batch| batch.format = 9, DecodeError::Format(9));
    check(|batch| batch.rows = MAX_ROWS + 1, DecodeError::TooManyRows(MAX_ROWS + 1));
    check(|batch| batch.sender = None, DecodeError::Sender);
    check(|batch| batch.url_path = vec![0, 0], DecodeError::ColumnLength { column: "url_path", found: 2, rows: 1 });
    check(|batch| batch.service_name = vec![99], DecodeError::Index { column: "service_name", row: 0, index: 99 });
    check(|batch| batch.client_address = vec![9], DecodeError::Index { column: "client_address", row: 0, index: 9 });
    check(|batch| batch.strings[0] = "absent".to_owned(), DecodeError::FirstString);
    check(|batch| batch.addresses[0] = vec![1, 2], DecodeError::Address { index: 0, length: 2 });
    assert!(matches!(DecodedBatch::decode(&[0xff, 0xff]), Err(DecodeError::Malformed(_))));
}

proptest::proptest! {
    /// Whatever the bytes, decoding answers; what decodes can be read to its end.
    #[test]
    fn hostile_bytes_are_refused_or_read(position in 0usize..400, byte: u8, cut in 0usize..400) {
        let mut builder = builder();
        builder.push(&record());
        let mut bytes = builder.finish(1, 2, Vec::new()).bytes;
        let length = bytes.len();
        bytes[position % length] ^= byte;
        bytes.truncate(length - cut % length);
        if let Ok(batch) = DecodedBatch::decode(&bytes) {
            for record in batch.records() {
                record.for_each(|_, value| { std::hint::black_box(value); });
            }
        }
    }
}
