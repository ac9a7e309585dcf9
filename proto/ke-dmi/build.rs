//! Makes Rust of `dmi.proto` without `protoc`: protox compiles it, tonic writes clients and servers. Both are needed:
//! edgecore and a mapper call each other.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=dmi.proto");
    let files = protox::compile(["dmi.proto"], ["."])?;
    tonic_prost_build::configure()
        // The same value always gives the same bytes.
        .btree_map(".")
        // Holds what a device is reached with, passwords too; lib.rs says how it is printed.
        .skip_debug(["v1beta1.CustomizedValue"])
        .compile_fds(files)?;
    Ok(())
}
