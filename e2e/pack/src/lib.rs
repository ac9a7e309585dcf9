//! What ships, in the forms that people install: archives, Debian and RPM packages, container images, sums and bills
//! of materials.
//!
//! The same binaries, version and date give the same bytes on every machine. Nothing here compiles, signs or uploads,
//! and nothing of it is part of what ships. The program `pack` (that is `make packages`) uses all of it; the stories
//! make their images with `tar` and `oci`.

pub mod release;
pub mod products;
pub mod package;
pub mod deb;
pub mod rpm;
pub mod oci;
pub mod sbom;
pub mod terms;
pub mod libraries;
pub mod elf;
pub mod arch;
pub mod tree;
pub mod tar;
pub mod ar;
pub mod cpio;
pub mod gzip;
pub mod sha256;
