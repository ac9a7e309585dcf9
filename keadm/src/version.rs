//! This program's version.

/// This program's version, with the letter that tags have.
pub(crate) fn own() -> &'static str {
    concat!("v", env!("CARGO_PKG_VERSION"))
}
