//! Statements, and batches of records.

use podtap_sidecar::pipeline::Identity;
use podtap_sidecar::protocol::Exchange;
use podtap_sidecar::protocol::exchange::{Detail, MysqlDetail};
use podtap_sidecar::record::Recorder;
use podtap_wire::batch::MAX_ROWS;
use podtap_wire::{BatchBuilder, DecodedBatch, Protocol, RequestRecord, SourceKind};

/// A literal that no result may show.
const SECRET: &str = "s3cr3tl1t3r4l";

fn normalised(statement: &str) -> [String; 4] {
    let mut exchange = Exchange::default();
    exchange.protocol = Protocol::Mysql;
    let statement = exchange.put(statement.as_bytes());
    exchange.detail = Detail::Mysql(MysqlDetail { statement, command: "COM_QUERY", ..MysqlDetail::default() });
    let mut recorder = Recorder::new(SourceKind::File, false, Identity::default(), Vec::new());
    let record = recorder.record(&exchange);
    [record.db_query_text, record.db_query_fingerprint, record.db_query_summary, record.db_operation_name].map(str::to_owned)
}

/// A statement. `\x01` in it stands for a quoted literal.
///
/// What is derived is bounded by the statement's length, is the same each time, and shows no literal wherever one can stand.
pub fn sql(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let derived = normalised(&text);
    assert_eq!(derived, normalised(&text));
    let bound = 16 + 3 * text.len();
    assert!(derived.iter().all(|result| result.len() <= bound), "{derived:?} of {text:?}");
    // Where no quote and no comment is open a quoted literal is one.
    let plain = |c: char| c.is_ascii_alphanumeric() || " ,()=<>+*.;\n\x01".contains(c);
    if text.contains('\x01') && !text.contains(SECRET) && text.chars().all(plain) {
        let told = normalised(&text.replace('\x01', &format!(" '{SECRET}' ")));
        assert!(told.iter().all(|result| !result.contains(SECRET)), "{told:?} of {text:?}");
    }
    data.len() < 64 << 10
}

/// An encoded batch.
///
/// One that decodes can be read whole, and what is read, encoded again, decodes to the same records.
pub fn wire(data: &[u8]) -> bool {
    let Ok(batch) = DecodedBatch::decode(data) else { return data.len() < 4 << 10 };
    assert!(batch.rows() <= MAX_ROWS as usize);
    let beyond = batch.record(batch.rows());
    assert_eq!(beyond.url_path, "");
    // Rows without columns cost a sender nothing: a few of them tell as much as all.
    let records: Vec<RequestRecord<'_>> = batch.records().take(2048).collect();
    let sender = batch.sender();
    let boot = <[u8; 16]>::try_from(sender.boot_id.as_slice()).unwrap_or_default();
    let mut builder = BatchBuilder::new(sender.id.clone(), boot, batch.resource().clone());
    records.iter().for_each(|record| builder.push(record));
    let again = builder.finish(sender.sequence, sender.closed_at_ns, batch.counters().to_vec());
    let decoded = DecodedBatch::decode(&again.bytes);
    assert!(decoded.is_ok(), "{decoded:?}");
    if let Ok(decoded) = decoded {
        assert_eq!(decoded.sender(), batch.sender());
        assert!(decoded.records().eq(records.iter().cloned()));
    }
    true
}
