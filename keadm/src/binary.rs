//! Where edgecore comes from.

use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::node;
use crate::render::PROGRAM;

/// The first that is there: beside keadm, the installed one, in PATH. Errors: all the places, and what else would do.
pub(crate) fn find(host: &dyn Host) -> Result<PathBuf, String> {
    first(host, &places(host))
}

fn places(host: &dyn Host) -> Vec<PathBuf> {
    let beside = host.own_program().ok().and_then(|own| Some(own.parent()?.join("edgecore")));
    let in_path = host.program_folders().into_iter().map(|folder| folder.join("edgecore"));
    let mut places: Vec<PathBuf> = Vec::new();
    for place in beside.into_iter().chain([PROGRAM.into()]).chain(in_path) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Where it was looked for on this machine, as a reader of an error wants to know it.
pub(crate) fn looked(host: &dyn Host) -> String {
    let places: Vec<String> = places(host).iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

/// The same, but not the installed one: that is to be replaced.
pub(crate) fn find_new(host: &dyn Host) -> Result<PathBuf, String> {
    let places: Vec<PathBuf> =
        places(host).into_iter().filter(|place| *place != Path::new(PROGRAM)).collect();
    first(host, &places)
}

fn first(host: &dyn Host, places: &[PathBuf]) -> Result<PathBuf, String> {
    if let Some(found) = places.iter().find(|place| host.exists(place) && !node::is_kubeedges(host, place)) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err(format!(
        "there is no edgecore on this machine; looked at {}. Put the program beside keadm, or install the edgecore package",
        looked.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn places_have_an_order() {
        let check = |there: &[&str], expected: &str| {
            assert_eq!(find(&FakeHost::new(there)).unwrap(), PathBuf::from(expected));
        };
        check(&["/usr/bin/edgecore", "/opt/keadm/edgecore"], "/opt/keadm/edgecore");
        check(&["/usr/bin/edgecore", "/usr/local/bin/edgecore"], "/usr/local/bin/edgecore");
        check(&["/usr/bin/edgecore"], "/usr/bin/edgecore");
        let host = FakeHost::new(&["/usr/bin/edgecore"]);
        host.write(Path::new("/opt/keadm/edgecore"), node::OF_GO, 0o755).unwrap();
        assert_eq!(find(&host).unwrap(), Path::new("/usr/bin/edgecore"), "KubeEdge's is none");
        let error = find(&FakeHost::new(&[])).unwrap_err();
        assert!(error.contains("/opt/keadm/edgecore, /usr/local/bin/edgecore, /usr/bin/edgecore"), "{error}");
    }
}
