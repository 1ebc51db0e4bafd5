//! Compiles `proto/podtap/v1/ingest.proto` without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["podtap/v1/ingest.proto"], ["proto"])?;
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).bytes(".podtap.v1.Envelope.batch").compile_fds(descriptors)?;
    Ok(())
}
