//! Nobody reads what keadm prints any more, as with `keadm ... | head`; or it cannot be written.

use std::fs::OpenOptions;
use std::io;
use std::process::{Command, Output, Stdio};

fn keadm(words: &str) -> Command {
    let mut keadm = Command::new(env!("CARGO_BIN_EXE_keadm"));
    keadm.args(words.split(' ')).stdin(Stdio::null());
    keadm
}

/// The other end of a pipe that is closed.
fn closed() -> io::Result<Stdio> {
    let (reader, writer) = io::pipe()?;
    drop(reader);
    Ok(writer.into())
}

fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn who_closes_the_pipe_has_seen_enough() {
    let check = |words: &str| {
        let output = keadm(words).stdout(closed().unwrap()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(told(&output), (Some(0), String::new()), "keadm {words}");
    };
    check("manifest generate");
    check("completion bash");
    check("version");
    check("version --output json");
    check("config images list");
    check("--help");
}

#[test]
fn a_command_that_fails_ends_with_its_own_code() {
    let check = |words: &str, code: i32| {
        let output = keadm(words).stdout(closed().unwrap()).stderr(closed().unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "keadm {words}");
    };
    // There is no edgecore beside this keadm's test, or no node: something is wrong, and is told to nobody.
    check("debug diagnose node --config /no/such.yaml", 1);
    check("init --advertise-address=", 2);
    check("manifest generate --set cloudCore", 2);
}

#[test]
fn a_full_disk_is_told() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = keadm("manifest generate").stdout(full).stderr(Stdio::piped()).output().unwrap();
    let (code, said) = told(&output);
    // Not 1: nothing is undone for that.
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("not everything could be printed") && said.lines().count() == 1, "{said}");
}
