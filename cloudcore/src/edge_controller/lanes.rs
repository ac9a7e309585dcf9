//! What nodes ask and report, in the order that matters: parallel across objects, one after the other for one object
//! of one node, so that an older status never overtakes a newer one.
//!
//! It decides nothing about the content; `answers.rs` does. Runs as one half of `mod.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ke_run::shutdown::Shutdown;
use ke_wire::{About, Answer, EventChange, Kind, NodeName, ObjectKey, Question, Version};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::{Id, JoinSet};

use super::answers::Answers;
use super::handle::{FromNode, LinkNews};

/// Jobs that are running or wait for one of the same object. One node has at most 144 of them (`node_link.rs`).
const MAX_JOBS: usize = 2048;

/// `None`: the node itself.
type Lane = (NodeName, Option<ObjectKey>);

enum Job {
    Ask(NodeName, Question, oneshot::Sender<(Answer, Option<Version>)>),
    Event(NodeName, ObjectKey, EventChange, OwnedSemaphorePermit),
}

#[derive(Default)]
struct Lanes {
    waiting: HashMap<Lane, VecDeque<Job>>,
    running: HashMap<Id, Lane>,
    tasks: JoinSet<()>,
    n_jobs: usize,
}

/// Runs until asked to stop. When `MAX_JOBS` are under way, `inbox` fills and the links wait.
pub(super) async fn run(
    answers: Answers,
    mut inbox: mpsc::Receiver<FromNode>,
    news: mpsc::Sender<LinkNews>,
    stop: Shutdown,
) {
    let answers = Arc::new(answers);
    let mut lanes = Lanes::default();
    loop {
        let message = tokio::select! {
            () = stop.wait() => return,
            Some(ended) = lanes.tasks.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(broken) => broken.id(),
                };
                lanes.on_ended(id, &answers);
                continue;
            }
            message = inbox.recv(), if lanes.n_jobs < MAX_JOBS => message,
        };
        let (lane, job) = match message {
            None => return,
            Some(FromNode::Connected(node)) => {
                let _ = news.send(LinkNews::Connected(node)).await;
                continue;
            }
            Some(FromNode::Disconnected(node)) => {
                let _ = news.send(LinkNews::Disconnected(node)).await;
                continue;
            }
            Some(FromNode::Ask(node, question, reply)) => {
                (lane_of_question(&node, &question), Job::Ask(node, question, reply))
            }
            Some(FromNode::Event(node, key, change, permit)) => {
                ((node.clone(), Some(key.clone())), Job::Event(node, key, change, permit))
            }
        };
        lanes.add(lane, job, &answers);
    }
}

impl Lanes {
    fn add(&mut self, lane: Lane, job: Job, answers: &Arc<Answers>) {
        self.n_jobs = self.n_jobs.saturating_add(1);
        match self.waiting.get_mut(&lane) {
            Some(waiting) => waiting.push_back(job),
            None => {
                self.waiting.insert(lane.clone(), VecDeque::new());
                self.start(lane, job, answers);
            }
        }
    }

    fn start(&mut self, lane: Lane, job: Job, answers: &Arc<Answers>) {
        let answers = Arc::clone(answers);
        let task = self.tasks.spawn(async move {
            match job {
                Job::Ask(node, question, reply) => {
                    // Whoever asked may be gone; what it wanted stored is stored all the same.
                    let _ = reply.send(answers.answer(&node, question).await);
                }
                Job::Event(node, key, change, _permit) => answers.store_event(&node, &key, change).await,
            }
        });
        self.running.insert(task.id(), lane);
    }

    fn on_ended(&mut self, id: Id, answers: &Arc<Answers>) {
        self.n_jobs = self.n_jobs.saturating_sub(1);
        let Some(lane) = self.running.remove(&id) else { return };
        match self.waiting.get_mut(&lane).and_then(VecDeque::pop_front) {
            Some(next) => self.start(lane, next, answers),
            None => {
                self.waiting.remove(&lane);
            }
        }
    }
}

/// Questions about one object of one node wait for one another. Many nodes may ask for one thing at once.
fn lane_of_question(node: &NodeName, question: &Question) -> Lane {
    let key = match question.about() {
        About::Object(key) => (key.kind != Kind::Node).then_some(key),
        About::PodStatus(namespace, name) => Some(ObjectKey::namespaced(Kind::Pod, namespace, name)),
        About::Token(namespace, account) => {
            Some(ObjectKey::namespaced(Kind::ServiceAccountAccess, namespace, account))
        }
        About::NodeStatus(_) | About::ApiServerCa | About::OldPodStatus(..) | About::Unnamed => None,
    };
    (node.clone(), key)
}
