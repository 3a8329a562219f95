//! Compiles the .proto files with protox: no system protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "concord/v1/transaction.proto",
        "concord/v1/coordinator.proto",
        "concord/v1/participant.proto",
        "concord/v1/attachment.proto",
        "concord/v1/operator.proto",
        "concord/store/v1/record.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("concord.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
