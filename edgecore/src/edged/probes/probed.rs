//! What one probe has found, in the word that whoever asks gives to whoever counts. Pure.

/// What one probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// All is well.
    Well,
    /// All is well, and the Pod's author should know this.
    Warned(String),
    /// It is not.
    Unwell(String),
    /// The question could not be put: this says nothing about the container.
    NotMade(String),
}
