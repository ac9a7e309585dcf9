//! What everybody calls a processor: KubeEdge's archives, Debian, RPM, container images, Debian's folders, Rust. Pure.

/// Those that edge machines have and Rust's standard library comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    Amd64,
    Arm64,
    /// With a floating-point unit, which is Debian's armhf.
    Armv7,
}

/// Whose C library a program was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    Gnu,
    Musl,
}

impl Arch {
    /// In the names of archives, as KubeEdge's releases have it.
    pub fn kubeedge(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "arm",
        }
    }

    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "armhf",
        }
    }

    pub fn rpm(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
            Self::Armv7 => "armv7hl",
        }
    }

    /// What RPM puts behind the name of a library of 64 bits, and nothing for 32.
    pub fn rpm_bits(self) -> &'static str {
        match self {
            Self::Amd64 | Self::Arm64 => "(64bit)",
            Self::Armv7 => "",
        }
    }

    /// Architecture and variant in an image's configuration.
    pub fn oci(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Amd64 => ("amd64", None),
            Self::Arm64 => ("arm64", None),
            Self::Armv7 => ("arm", Some("v7")),
        }
    }

    /// The folder of libraries on Debian and its kin.
    pub fn triplet(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
            Self::Armv7 => "arm-linux-gnueabihf",
        }
    }

    /// Rust's name of the target.
    pub fn target(self, libc: Libc) -> &'static str {
        match (self, libc) {
            (Self::Amd64, Libc::Gnu) => "x86_64-unknown-linux-gnu",
            (Self::Amd64, Libc::Musl) => "x86_64-unknown-linux-musl",
            (Self::Arm64, Libc::Gnu) => "aarch64-unknown-linux-gnu",
            (Self::Arm64, Libc::Musl) => "aarch64-unknown-linux-musl",
            (Self::Armv7, Libc::Gnu) => "armv7-unknown-linux-gnueabihf",
            (Self::Armv7, Libc::Musl) => "armv7-unknown-linux-musleabihf",
        }
    }
}
