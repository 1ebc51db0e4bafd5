//! What a record costs the analyzer, step by step: decoding its batch, counting it, writing it as a row. `cargo xtask bench --micro`.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use podtap_analyzer::ingest::block::{BlockWrite, PartitionFold, PartitionId, ResumePoint};
use podtap_analyzer::store::native::Native;
use podtap_analyzer::store::rows::{HISTOGRAM_COLUMNS, RequestWriter, request_columns, series};
use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, DecodedBatch, Protocol, RequestRecord, Side, SourceKind};

const ROWS: u64 = 2_048;
const BATCHES: u64 = 20;
const NOW: u64 = 1_700_000_000_000_000_000;

/// Batches of one pod, whose records have so many paths and clients.
fn messages(paths: u64, clients: u64) -> Vec<Vec<u8>> {
    let resource = Resource { k8s_pod_name: "shop-1".to_owned(), k8s_workload_name: "shop".to_owned(), ..Resource::default() };
    let mut builder = BatchBuilder::new("shop-1".to_owned(), [1; 16], resource);
    let paths: Vec<_> = (0..paths).map(|path| format!("/catalog/books/article-{path}")).collect();
    let batch = |sequence: u64| {
        for number in 0..ROWS {
            let chance = (sequence * ROWS + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let path = &paths[(chance % paths.len() as u64) as usize];
            builder.push(&RequestRecord {
                timestamp: NOW + (sequence * ROWS + number) * 1_000_000,
                network_protocol_name: Protocol::Http,
                client_address: Ipv4Addr::new(10, 0, 0, (chance / 7 % clients) as u8).into(),
                client_port: 32_768 + chance % 200,
                server_address: Ipv4Addr::new(10, 0, 1, 1).into(),
                server_port: 8080,
                service_name: "shop",
                source: SourceKind::Ebpf,
                side: Side::Server,
                http_request_method: "GET",
                http_response_status_code: 200,
                url_path: path,
                url_template: path,
                tcp_request_sequence: Some(chance % (1 << 32)),
                time_to_first_byte_ns: Some(200_000 + chance % 3_000_000),
                time_to_last_byte_ns: Some(250_000 + chance % 3_000_000),
                request_bytes: 300,
                response_bytes: 300 + chance % 4_000,
                ..RequestRecord::default()
            });
        }
        builder.finish(sequence, NOW, Vec::new()).bytes
    };
    (1..=BATCHES).map(batch).collect()
}

fn fold(messages: &[Vec<u8>]) -> BlockWrite {
    let partition = PartitionId { topic: "t".to_owned(), incarnation: "i".to_owned(), partition: 0 };
    let mut fold = PartitionFold::resume(partition, ResumePoint::default());
    for (offset, message) in messages.iter().enumerate() {
        fold.handle_message(offset as u64, NOW + 1_000_000_000_000, message);
    }
    let Some(write) = fold.take_write() else { panic!("nothing was counted") };
    write
}

fn ingest(criterion: &mut Criterion) {
    for (name, paths, clients) in [("200_paths_4_clients", 200, 4), ("5000_paths_20_clients", 5_000, 20)] {
        let messages = messages(paths, clients);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(ROWS * BATCHES)).sample_size(20);
        group.bench_function("decode", |bencher| {
            bencher.iter(|| messages.iter().for_each(|message| drop(black_box(DecodedBatch::decode(message)))));
        });
        group.bench_function("decode_and_count", |bencher| bencher.iter_with_large_drop(|| fold(&messages)));
        let write = fold(&messages);
        group.bench_function("write_requests", |bencher| {
            let columns = request_columns();
            let begin = || (Native::new(&columns), RequestWriter::default());
            bencher.iter_batched(
                begin,
                |(mut rows, mut writer)| {
                    for placed in &write.batches {
                        writer.begin(placed);
                        writer.write(&mut rows, &write.partition, placed, 0..placed.batch.rows(), 1);
                    }
                    rows.take()
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function("write_histograms", |bencher| {
            bencher.iter_batched(
                || Native::new(&HISTOGRAM_COLUMNS),
                |mut rows| {
                    write.series.iter().for_each(|row| series(&mut rows, &write, row));
                    rows.take()
                },
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, ingest);
criterion_main!(benches);
