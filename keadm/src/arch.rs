//! Names of processors, in the words of Go and of archives: amd64, arm64, arm.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// This machine's.
pub(crate) fn own() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The one that a program is for, by the number in its ELF header.
pub(crate) fn of_program(program: &Path) -> Result<&'static str, String> {
    let mut header = [0; 20];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut header));
    match (read, header) {
        (Ok(()), [0x7f, b'E', b'L', b'F', .., 62, 0]) => Ok("amd64"),
        (Ok(()), [0x7f, b'E', b'L', b'F', .., 183, 0]) => Ok("arm64"),
        (Ok(()), [0x7f, b'E', b'L', b'F', .., 40, 0]) => Ok("arm"),
        (Err(error), _) if error.kind() != ErrorKind::UnexpectedEof => {
            Err(format!("read {}: {error}", program.display()))
        }
        _ => Err(format!("{} is no Linux program for amd64, arm64 or arm", program.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_what_they_are_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, body: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, body).unwrap();
            path
        };
        let mut header = [0u8; 20];
        header[..4].copy_from_slice(b"\x7fELF");
        for (machine, expected) in [(62, Some("amd64")), (183, Some("arm64")), (40, Some("arm")), (8, None)] {
            header[18] = machine;
            assert_eq!(of_program(&file("elf", &header)).ok(), expected);
        }
        assert!(of_program(&file("script", b"#!/bin/sh\n")).unwrap_err().contains("no Linux program"));
        assert_eq!(of_program(&std::env::current_exe().unwrap()).unwrap(), own());
    }
}
