//! Carries out what `tolerations.rs` says: patches Pods, a few at a time, each in its newest form.
//!
//! A Pod that is new is left alone for a moment, so that who has just made it reads what he wrote; a fifth of the time after
//! which it would be deleted without its node is the most that passes. Fed by `placer.rs`. A Pod that could not be patched is tried again a few times; after that its next event, or the next
//! start, brings it back.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::Method;
use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use ke_wire::{ObjectKey, Reason};
use tokio::sync::mpsc;

use super::observed::Observed;
use super::tolerations::{self, Fix, Policy};
use crate::api_server::{ApiServer, Call, Content, object_path};

/// A Pod to patch.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Which.
    pub pod: ObjectKey,
    /// How.
    pub fix: Fix,
    /// The annotation of its node, should the patch have to be made anew.
    pub autonomy: Option<String>,
    /// How long it can wait.
    pub wait: Duration,
}

/// Few: the first start in a large fleet has thousands to patch, and the API server has other work.
const AT_ONCE: usize = 4;
const TRIES: u32 = 5;

/// Runs until asked to stop. What waits is held by Pod, newest only, so that `orders` never stays full.
pub(super) async fn run(api: ApiServer, policy: Policy, mut orders: mpsc::Receiver<Order>, stop: Shutdown) {
    let mut waiting: HashMap<ObjectKey, Order> = HashMap::new();
    let mut young: HashMap<ObjectKey, Order> = HashMap::new();
    let mut growing = FuturesUnordered::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < AT_ONCE {
            let Some(key) = waiting.keys().next().cloned() else { break };
            if let Some(order) = waiting.remove(&key) {
                running.push(carry_out(&api, policy, order));
            }
        }
        tokio::select! {
            () = stop.wait() => return,
            order = orders.recv() => match order {
                Some(order) if order.wait.is_zero() => {
                    young.remove(&order.pod);
                    waiting.insert(order.pod.clone(), order);
                }
                Some(order) => {
                    let (key, wait) = (order.pod.clone(), order.wait);
                    // The first time counts: a Pod that keeps changing must not wait for ever.
                    if young.insert(key.clone(), order).is_none() {
                        growing.push(async move { tokio::time::sleep(wait).await; key });
                    }
                }
                None => return,
            },
            Some(key) = growing.next() => {
                if let Some(order) = young.remove(&key) {
                    waiting.insert(key, order);
                }
            }
            Some(()) = running.next() => {}
        }
    }
}

async fn carry_out(api: &ApiServer, policy: Policy, mut order: Order) {
    let backoff =
        Backoff { first: Duration::from_secs(1), factor: 3.0, max: Duration::from_secs(30), jitter: 0.0 };
    for attempt in 0..TRIES {
        let Ok(path) = object_path(&order.pod, "") else { return };
        let patch = order.fix.patch.to_string().into();
        let Err(refused) = api.call(Call::new(Method::PATCH, path).with(Content::MergePatch, patch)).await
        else {
            tracing::debug!(pod = %order.pod, "tolerations set");
            return;
        };
        match refused.reason {
            Reason::NotFound => return,
            Reason::Conflict => {
                let Ok(body) = api.get(&order.pod).await else { continue };
                let now = serde_json::from_slice(&body)
                    .ok()
                    .and_then(|pod| Observed::new(&order.pod.kind, pod).ok());
                let fix = now.and_then(|now| tolerations::plan(&now, order.autonomy.as_deref(), policy));
                let Some(fix) = fix else { return };
                order.fix = fix;
            }
            Reason::Forbidden | Reason::Invalid | Reason::BadRequest => {
                tracing::warn!(pod = %order.pod, "cannot set tolerations; without its node for 5 minutes the pod will be deleted: {refused}");
                return;
            }
            _ => tokio::time::sleep(backoff.delay(attempt, 0.0)).await,
        }
    }
    tracing::warn!(pod = %order.pod, "tolerations not set after {TRIES} tries; trying again when the pod changes");
}
