//! What two ends of Isthmus say beside KubeEdge's messages, as gRPC metadata, which its ends pass over.

/// Along with the answer to a registration: values of any text are taken. Edges of KubeEdge send nothing of the kind.
pub const ANY_TEXT: &str = "isthmus-dmi";
/// Along with a state: why it is no better, for people.
pub const WHY: &str = "isthmus-why-bin";
/// Characters of that.
pub const MAX_WHY: usize = 500;
