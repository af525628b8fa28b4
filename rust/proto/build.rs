//! Compiles `proto/` with `protox`, so that no `protoc` has to be installed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let files = ["common", "task", "durable", "describe", "raylet", "gcs"]
        .map(|name| root.join(format!("ray_rs/v1/{name}.proto")));
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let descriptors = protox::compile(&files, [root])?;
    tonic_prost_build::configure()
        .build_transport(true)
        // Cloning and slicing a value's data must not copy it.
        .bytes(".ray_rs.v1.Value.data")
        .bytes(".ray_rs.v1.CommitCallsRequest.records")
        .bytes(".ray_rs.v1.GetCallLogReply.records")
        .bytes(".ray_rs.v1.Checkpoint.data")
        .bytes(".ray_rs.v1.CallCheckpoint.state")
        .bytes(".ray_rs.v1.AnswerRecord.reply")
        // Few messages have one.
        .boxed(".ray_rs.v1.PushTask.dep_refs")
        .boxed(".ray_rs.v1.RefTable.estate")
        .compile_fds(descriptors)?;
    Ok(())
}
