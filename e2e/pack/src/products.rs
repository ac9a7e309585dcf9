//! What is made of which program: the one table of names, places and words. Pure.
//!
//! A form is made when its first program was built; the others are left out while they are not there.

/// An archive in the shape that KubeEdge's releases have (`hack/make-rules/release.sh` of kubeedge/kubeedge v1.23):
/// NAME-vX-linux-ARCH.tar.gz holds NAME-vX-linux-ARCH/ with the file `version` and each program in its folder.
pub struct Archive {
    pub name: &'static str,
    /// Program, and its place below the archive's folder.
    pub programs: &'static [(&'static str, &'static str)],
}

pub const ARCHIVES: &[Archive] = &[
    Archive { name: "keadm", programs: &[("keadm", "keadm/keadm")] },
    Archive {
        name: "kubeedge",
        // keadm is not in KubeEdge's; `./keadm upgrade edge` takes the edgecore beside it, and both change together.
        programs: &[
            ("edgecore", "edge/edgecore"),
            ("keadm", "edge/keadm"),
            ("cloudcore", "cloud/cloudcore/cloudcore"),
        ],
    },
];

/// A Debian package and an RPM: the program in /usr/bin, since /usr/local belongs to the machine's owner.
pub struct Packaged {
    pub program: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    /// Name and text of the unit. The text is the one that keadm writes, with the package's path of the program.
    pub unit: Option<(&'static str, &'static str)>,
}

pub const PACKAGES: &[Packaged] = &[
    Packaged {
        program: "edgecore",
        summary: "Kubernetes node agent for the edge",
        description: "Runs the pods of an edge machine through its container runtime and serves its devices,\n\
                      also while the cloud cannot be reached. It joins a cluster with keadm.",
        unit: Some(("edgecore.service", include_str!("../../../keadm/units/edgecore.service"))),
    },
    Packaged {
        program: "keadm",
        summary: "installs and looks after Kubernetes at the edge",
        description: "Brings cloudcore into a cluster, makes machines its edge nodes, upgrades both, and undoes all of it.",
        unit: None,
    },
];

/// Where keadm's unit has the program, and where a package has it.
pub const KEADM_PLACE: &str = "/usr/local/bin/edgecore";
pub const PACKAGE_PLACE: &str = "/usr/bin/edgecore";

pub struct Contained {
    pub name: &'static str,
    /// Program, and its place in the image.
    pub programs: &'static [(&'static str, &'static str)],
    pub entrypoint: &'static [&'static str],
    pub command: &'static [&'static str],
    /// `user:group`; empty is root.
    pub user: &'static str,
    pub folder: &'static str,
}

/// Nobody's in particular, and the one that other images without a password file use.
const NOT_ROOT: &str = "65532:65532";

pub const IMAGES: &[Contained] = &[
    Contained {
        name: "cloudcore",
        programs: &[("cloudcore", "usr/local/bin/cloudcore")],
        entrypoint: &["/usr/local/bin/cloudcore"],
        command: &[],
        user: NOT_ROOT,
        folder: "/",
    },
    // As in KubeEdge's image of this name, whose files keadm copies to a machine. There is no shell and no `cp` in it.
    Contained {
        name: "installation-package",
        programs: &[("edgecore", "usr/local/bin/edgecore"), ("keadm", "usr/local/bin/keadm")],
        entrypoint: &[],
        command: &["/usr/local/bin/edgecore", "--version"],
        user: "",
        folder: "/etc/kubeedge",
    },
    mapper("mapper-virtual", &[("mapper-virtual", "mapper")]),
    mapper("mapper-modbus", &[("mapper-modbus", "mapper")]),
    mapper("mapper-opcua", &[("mapper-opcua", "mapper")]),
    mapper("mapper-mqtt", &[("mapper-mqtt", "mapper")]),
];

/// As mappers/Dockerfile has it. Root, because the sockets by which a mapper and edgecore meet are root's alone.
const fn mapper(name: &'static str, programs: &'static [(&'static str, &'static str)]) -> Contained {
    let entrypoint = &["/mapper", "--config-file", "/etc/mapper/config.yaml"];
    Contained { name, programs, entrypoint, command: &[], user: "", folder: "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_the_place_that_a_package_replaces() {
        for (name, text) in PACKAGES.iter().filter_map(|package| package.unit) {
            let n_places = text.matches(KEADM_PLACE).count();
            assert_eq!(n_places, 1, "{name} starts {KEADM_PLACE} in one place");
        }
    }

    /// One truth: the image that people build with the Dockerfile is the one that is packed.
    #[test]
    fn mappers_start_as_in_their_dockerfile() {
        let dockerfile = include_str!("../../../mappers/Dockerfile");
        let line = |word: &str| dockerfile.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim();
        let entrypoint: Vec<String> = serde_json::from_str(line("ENTRYPOINT")).unwrap();
        let mappers = IMAGES.iter().filter(|image| image.name.starts_with("mapper-"));
        for image in mappers {
            assert_eq!(image.entrypoint, entrypoint);
            assert!(line("COPY").ends_with(&format!("/{}", image.programs[0].1)), "{}", image.name);
        }
    }
}
