//! Who may change this machine. Asked by `main.rs` before a command looks at anything, so that what is said is about the user and
//! not about the first file that refused.

use crate::failure::Failure;
use crate::host::Host;
use crate::render::PROXY;

/// `words`: the command without its flags, which may hold a token.
pub(crate) fn must_be(host: &dyn Host, words: &str) -> Result<(), Failure> {
    if host.is_root() {
        return Ok(());
    }
    let is_set = |name: &str| host.variable(name).is_some_and(|value| !value.trim().is_empty());
    // Without -E sudo forgets the proxy, and join would write none down.
    let is_proxied = PROXY.iter().any(|name| is_set(name) || is_set(&name.to_lowercase()));
    let (sudo, why) = match is_proxied {
        true => ("sudo -E", " (-E, so that it knows of your proxy)"),
        false => ("sudo", ""),
    };
    let typed = host.typed();
    Err(Failure::Refused(format!(
        "keadm {words} changes this machine, and only root may do that: type the same behind {sudo}{why}, as in \
         `{sudo} {typed} {words} ...`"
    )))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::host::fake::FakeHost;

    /// What is said to who is not root; `None`: root is not asked for.
    fn said(line: &str) -> Option<(u8, String)> {
        let host = FakeHost::new(&["/etc/kubeedge/config/edgecore.yaml", "/usr/local/bin/edgecore"]);
        host.is_user.set(true);
        // The lock of another, which would be told if anything were done before.
        host.is_locked.set(true);
        host.changes_left.set(Some(0));
        let words = std::iter::once("keadm").chain(line.split(' '));
        let command =
            crate::Args::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).command;
        command.of_root()?;
        let failure = crate::run(&host, command).unwrap_err();
        assert!(host.ran.borrow().is_empty(), "{line}: {:?}", host.ran.borrow());
        Some((failure.code(), failure.to_string()))
    }

    #[test]
    fn who_is_not_root_is_told_to_type_sudo() {
        let check = |line: &str, words: &str| {
            let (code, why) = said(line).unwrap_or_else(|| panic!("{line}: root is not asked for"));
            assert_eq!(code, 3, "{line}");
            assert_eq!(why.lines().count(), 1, "{line}: {why}");
            assert!(why.ends_with(&format!("`sudo keadm {words} ...`")), "{line}: {why}");
            assert!(!why.contains("secret"), "{line}: {why}");
        };
        check("join --cloudcore-ipport=10.0.0.1 --token=secret", "join");
        check("join --cloudcore-ipport=10.0.0.1 --token=secret --dry-run", "join");
        check("join --takeover", "join");
        // What is wrong with the rest is said to root.
        check("join --cloudcore-ipport=x:y", "join");
        check("reset", "reset");
        check("reset edge --force", "reset edge");
        check("upgrade edge", "upgrade edge");
        check("backup edge", "backup edge");
        check("rollback edge", "rollback edge");
        check("config update --set a=b", "config update");
        check("config-update --set a=b", "config-update");
        check("deprecated join -e 10.0.0.1", "deprecated join");
        check("deprecated reset", "deprecated reset");
        check("recover --restart", "recover");
    }

    #[test]
    fn what_is_advised_can_be_typed() {
        let check = |typed: &str, proxy: (&str, &str), expected: &str| {
            let host = FakeHost::new(&[]);
            host.is_user.set(true);
            *host.typed.borrow_mut() = Some(typed.into());
            host.variables.borrow_mut().push((proxy.0.into(), proxy.1.into()));
            let why = super::must_be(&host, "join").unwrap_err().to_string();
            assert!(why.ends_with(&format!("as in `{expected} join ...`")), "{why}");
        };
        check("keadm", ("HTTPS_PROXY", ""), "sudo keadm");
        check("./keadm", ("HOME", "/root"), "sudo ./keadm");
        check("keadm", ("HTTPS_PROXY", "http://p:1"), "sudo -E keadm");
        check("/opt/keadm", ("https_proxy", "http://p:1"), "sudo -E /opt/keadm");
    }

    #[test]
    fn who_changes_nothing_here_need_not_be_root() {
        for line in [
            "reset cloud",
            "deprecated reset cloud",
            "upgrade cloud",
            "rollback cloud",
            "init",
            "gettoken",
            "config images list",
            "bundle check x",
            "version",
            "beta",
        ] {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
