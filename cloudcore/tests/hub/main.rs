//! CloudHub and the queues behind real TLS on loopback: who gets a certificate, who may connect, what a link carries,
//! and what a hostile peer achieves. Needs no cluster and no root.

// All of this is a test; the lints know only functions marked as one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bench;
mod enrolment;
mod hostile;
mod links;
