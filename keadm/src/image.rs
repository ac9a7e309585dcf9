//! Names of the images that this version of keadm takes programs from.

use crate::version;

/// Where they are when nobody says.
const REPOSITORY: &str = "isthmus";

/// The image that edgecore and keadm come in.
pub(crate) fn of_programs(repository: Option<&str>) -> String {
    named(repository, "installation-package")
}

/// `repository`: registry and folder.
pub(crate) fn named(repository: Option<&str>, name: &str) -> String {
    format!("{}/{name}:{}", repository.unwrap_or(REPOSITORY).trim_end_matches('/'), version::own())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One truth: the chart's name of cloudcore's image is the one that is pulled.
    #[test]
    fn the_chart_takes_what_is_pulled() {
        let chart = include_str!("../../charts/cloudcore/values.yaml");
        assert!(chart.contains(&format!("repository: {REPOSITORY}/cloudcore\n")));
    }
}
