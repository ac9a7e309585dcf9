//! RPMs read back by their tables; rpm itself judges them in the story `packages`.

use std::collections::BTreeMap;
use std::io::Read;

use super::*;
use crate::elf::Elf;
use crate::package::tests::{package, tree};

/// Type, count and bytes from its offset on, of each tag. Also the bytes that follow.
/// A tag's type, count and bytes.
type Entries<'a> = BTreeMap<u32, (u32, u32, &'a [u8])>;

fn read(bytes: &[u8]) -> (Entries<'_>, &[u8]) {
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes[..8], [0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0]);
    let (n_entries, n_bytes) = (number(8) as usize, number(12) as usize);
    let data = 16 + 16 * n_entries;
    let entries = (0..n_entries).map(|n| 16 + 16 * n).map(|at| {
        let from = data + number(at + 8) as usize;
        (number(at), (number(at + 4), number(at + 12), &bytes[from..data + n_bytes]))
    });
    (entries.collect(), &bytes[data + n_bytes..])
}

fn texts(value: (u32, u32, &[u8])) -> Vec<String> {
    let (_, count, bytes) = value;
    let texts = bytes.split(|byte| *byte == 0).take(count as usize);
    texts.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
}

fn numbers(value: (u32, u32, &[u8])) -> Vec<u32> {
    let (_, count, bytes) = value;
    bytes
        .chunks(4)
        .take(count as usize)
        .map(|number| u32::from_be_bytes(number.try_into().unwrap()))
        .collect()
}

fn made(check: impl FnOnce(&BTreeMap<u32, (u32, u32, &[u8])>, &[u8], &[u8])) {
    let elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
    let tree = tree();
    let package = package("1.2.3-rc.1", &elf, &tree);
    assert_eq!(file_name(&package), "edgecore-1.2.3~rc.1-1.x86_64.rpm");
    let bytes = write(&package).unwrap();
    assert_eq!(bytes, write(&package).unwrap());
    assert_eq!(bytes[..4], [0xed, 0xab, 0xee, 0xdb]);
    let (signature, rest) = read(&bytes[96..]);
    // Up to seven zeros, so that the header starts at a multiple of eight.
    let signed = &rest[(bytes.len() - rest.len()).next_multiple_of(8) - (bytes.len() - rest.len())..];
    let (header, payload) = read(signed);
    let header_bytes = &signed[..signed.len() - payload.len()];
    assert_eq!(texts(signature[&273]), [sha256(header_bytes)]);
    assert_eq!(numbers(signature[&1000]), [u32::try_from(signed.len()).unwrap()]);
    assert_eq!(texts(header[&5092]), [sha256(payload)]);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(payload).read_to_end(&mut unpacked).unwrap();
    assert_eq!(numbers(signature[&1007]), [u32::try_from(unpacked.len()).unwrap()]);
    check(&header, payload, &unpacked);
}

#[test]
fn files_stand_in_the_header_as_in_the_archive() {
    made(|header, _, archive| {
        assert_eq!(
            texts(header[&1118]),
            ["/usr/bin/", "/usr/lib/systemd/system/", "/usr/share/doc/edgecore/"]
        );
        assert_eq!(texts(header[&1117]), ["edgecore", "edgecore.service", "copyright"]);
        assert_eq!(numbers(header[&1116]), [0, 1, 2]);
        assert_eq!(numbers(header[&1037]), [0, 0, LICENCE_FILE]);
        assert_eq!(texts(header[&1035])[0], sha256(b"program"));
        let place = |name: &[u8]| archive.windows(name.len()).position(|window| window == name).unwrap();
        assert!(place(b"./usr/bin/edgecore\0") < place(b"./usr/lib/systemd/system/edgecore.service\0"));
        // Every file has a value in every one of these.
        for tag in [1028, 1030, 1033, 1034, 1035, 1036, 1037, 1039, 1040, 1045, 1095, 1096, 1097, 1116, 1117]
        {
            assert_eq!(header[&tag].1, 3, "tag {tag}");
        }
    });
}

#[test]
fn what_it_wants_is_named_as_other_packages_provide_it() {
    made(|header, _, _| {
        let wants: Vec<String> = texts(header[&1049]);
        assert_eq!(
            wants,
            [
                "/bin/sh",
                "libc.so.6()(64bit)",
                "libc.so.6(GLIBC_2.34)(64bit)",
                "libgcc_s.so.1()(64bit)",
                "rpmlib(CompressedFileNames)",
                "rpmlib(FileDigests)",
                "rpmlib(PayloadFilesHavePrefix)",
                "rpmlib(TildeInVersions)"
            ]
        );
        assert_eq!(header[&1048].1, 8);
        assert_eq!(texts(header[&1050])[4], "3.0.4-1");
        assert_eq!(texts(header[&1113]), ["1.2.3~rc.1-1"]);
        assert_eq!(texts(header[&1044]), ["edgecore-1.2.3~rc.1-1.src.rpm"]);
    });
}

#[test]
fn scripts_are_there_with_their_interpreter() {
    made(|header, _, _| {
        assert!(texts(header[&1025])[0].contains("systemctl stop edgecore.service"));
        assert!(texts(header[&1024])[0].contains("systemctl daemon-reload"));
        assert_eq!(texts(header[&1087]), ["/bin/sh"]);
    });
}
