//! Everything cloud and edge may say to each other, as types, and the dialects that put it on a wire.
//!
//! This crate decides nothing and does no IO. Modules on both sides know only [`Down`] and [`Up`]; text and
//! JSON of the KubeEdge protocol exist in `kubeedge` alone.

#![warn(missing_docs)]

mod application;
mod device_report;
mod discovery;
mod down;
mod go_json;
mod id;
mod job;
mod key;
mod legacy;
mod refusal;
mod router;
mod up;
mod version;

pub mod enrolment;
pub mod join_tokens;
pub mod kubeedge;
pub mod tunnel;

pub use application::{Application, ApplicationStatus, ApplicationVerb, PatchInfo, PatchOptions};
pub use device_report::{
    DeviceCondition, DeviceState, StateReport, ToldCondition, Trouble, TwinProperty, TwinReport, TwinTime,
    TwinType, TwinValue, TwinVersion, UnknownCondition,
};
pub use discovery::{DiscoveredDevice, Discovery};
pub use down::{About, Answer, Change, CsiVerb, Delete, DeviceRef, Down, Origin, Put};
pub use id::{DeviceId, InvalidId, MessageId, Namespace, NodeName, ObjectName, Uid};
pub use job::{
    ConfigUpdateSpec, ImageDigestGetter, ImagePrePullSpec, ImagePrePullTemplate, JobAction, JobKind,
    JobOrder, JobReport, LabelRequirement, LabelSelector, NodeUpgradeSpec, RegistryApi, RegistryToken, Task,
    TaskCheck, TaskItem, TaskKind, TaskPrePull, TaskReport, TaskUpgrade,
};
pub use key::{InvalidKey, Kind, ObjectKey, Scope};
pub use legacy::{ExtendResource, OldNodeStatus, OldPodStatus};
pub use refusal::{Reason, Refusal, RefusalDetails};
pub use router::{HttpAnswer, HttpMethod, RouterOrder, ServiceCall};
pub use up::{AckRoute, EventChange, Question, Up};
pub use version::{InvalidVersion, Version};
