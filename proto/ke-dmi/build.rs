//! Makes Rust of the protos without `protoc`: protox compiles it, tonic writes clients and servers. Both are needed:
//! edgecore and a mapper call each other.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=dmi.proto");
    println!("cargo:rerun-if-changed=discovery.proto");
    let files = protox::compile(["dmi.proto", "discovery.proto"], ["."])?;
    tonic_prost_build::configure()
        // The same value always gives the same bytes.
        .btree_map(".")
        // Holds what a device is reached with, passwords too; lib.rs says how it is printed.
        .skip_debug(["v1beta1.CustomizedValue", "isthmus.discovery.v1.DiscoveredDevice"])
        .compile_fds(files)?;
    Ok(())
}
