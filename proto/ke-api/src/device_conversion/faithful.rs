//! How a conversion forgets nothing: whatever the built form cannot say of the given one is told to the caller, and the
//! way back takes it into account where it still fits. Pure, and knows nothing of devices.

use serde_json::Value;

use super::parts::{Object, WrongField};

/// Name of the part that is the whole given body: only where the other parts do not bring it back exactly, as with an
/// empty list or a nameless entry.
pub(super) const WHOLE: &str = "whole";

/// Which version is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToBeta,
    ToAlpha,
}

impl Direction {
    fn back(self) -> Self {
        match self {
            Self::ToBeta => Self::ToAlpha,
            Self::ToAlpha => Self::ToBeta,
        }
    }
}

/// The two shapes of one kind. A body is an object without `apiVersion`, `kind` and `metadata`. `kept` are parts that
/// the shape to build had when the given one was made from it: each counts only where the given one still agrees.
pub(super) trait Shapes {
    fn build(&self, to: Direction, given: &Object, kept: &Object) -> Result<Object, WrongField>;
    /// The given body cut into parts, small enough that an edit of one leaves the others.
    fn parts(&self, given_when: Direction, given: &Object) -> Result<Object, WrongField>;
}

/// The other form of `given`, and the parts of `given` that this form does not tell.
pub(super) fn convert(
    shapes: &dyn Shapes,
    to: Direction,
    given: &Object,
    kept: &Object,
) -> Result<(Object, Object), WrongField> {
    if let Some(Value::Object(whole)) = kept.get(WHOLE)
        && let Ok(lost) = untold(shapes, to, given, whole)
        && shapes.build(to.back(), whole, &lost).is_ok_and(|again| again == *given)
    {
        return Ok((whole.clone(), lost));
    }
    let built = shapes.build(to, given, kept)?;
    let mut lost = untold(shapes, to, given, &built)?;
    if shapes.build(to.back(), &built, &lost)? != *given {
        lost.insert(WHOLE.to_owned(), Value::Object(given.clone()));
    }
    Ok((built, lost))
}

/// The parts of `given` that are others, or none, when it is made anew from `built`.
fn untold(shapes: &dyn Shapes, to: Direction, given: &Object, built: &Object) -> Result<Object, WrongField> {
    let mut anew = shapes.parts(to, &shapes.build(to.back(), built, &Object::new())?)?;
    let mut lost = shapes.parts(to, given)?;
    lost.retain(|name, part| anew.remove(name).as_ref() != Some(part));
    // What is there only when made anew must be remembered as missing.
    let missing =
        anew.into_iter().filter(|(name, _)| !lost.contains_key(name)).map(|(name, _)| (name, Value::Null));
    let missing: Vec<_> = missing.collect();
    lost.extend(missing);
    Ok(lost)
}
