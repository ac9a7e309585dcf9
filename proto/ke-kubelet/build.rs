//! Makes Rust of the protos without `protoc`: protox compiles them, tonic writes clients and servers. Both are needed:
//! a kubelet and its device plugins call each other, and the tests play the other side.

const FILES: [&str; 3] = ["device_plugin.proto", "plugin_registration.proto", "pod_resources.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let files = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        // The same value always gives the same bytes.
        .btree_map(".")
        // Holds variables of containers, which may be secret; lib.rs says how it is printed.
        .skip_debug(["v1beta1.ContainerAllocateResponse"])
        .compile_fds(files)?;
    Ok(())
}
