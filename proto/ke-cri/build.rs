//! Makes Rust of `cri.proto` without `protoc`: protox compiles it, tonic writes the clients. No server: the runtime
//! is always the other side.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cri.proto");
    let files = protox::compile(["cri.proto"], ["."])?;
    tonic_prost_build::configure()
        .build_server(false)
        // Values that may be secret; lib.rs says how they are printed.
        .skip_debug(["runtime.v1.AuthConfig", "runtime.v1.KeyValue"])
        .compile_fds(files)?;
    Ok(())
}
