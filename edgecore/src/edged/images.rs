//! Images: is one here, may it be pulled, how soon again. The only caller of the runtime's pull.
//!
//! A promise that goes beyond Kubernetes': a machine that boots without its uplink starts its pods. Where the policy
//! asks for a pull (`Always`, or the tag `latest`), the image is here and the registry cannot be reached, the image that
//! is here is used, and an event says so. A registry that answers "no" is obeyed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ke_cri::v1;
use tokio::sync::{Semaphore, watch};

use super::cri::{Runtime, RuntimeError};
use super::failure_reason::FailureReason;
use super::pull_secrets::Keyring;
use crate::image_name::{ImageName, PullPolicy};

/// Why a container waits for its image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It says nothing about the image: the runtime went away, and is asked again when it is back.
    #[error("{0}")]
    RuntimeAway(String),
    /// The image cannot be had.
    #[error("{message}")]
    Failed { reason: FailureReason, message: String },
}

/// Something to tell the user, as an event on the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageNotice {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// One container's wish.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Back-off is kept for each pod: another one may have better credentials.
    pub pod_uid: &'a str,
    /// As the container has it.
    pub image: &'a str,
    /// As the container has it.
    pub policy: Option<&'a str>,
    /// Credentials of the pod and the node.
    pub keyring: &'a Keyring,
    /// For the runtime, which may place images by it.
    pub sandbox: &'a v1::PodSandboxConfig,
    /// Handler of the pod's runtime class, empty for the default.
    pub runtime_handler: &'a str,
}

/// First delay after a failed pull, doubled up to the last.
const FIRST_DELAY: Duration = Duration::from_secs(10);
const LAST_DELAY: Duration = Duration::from_secs(300);
/// A registry that could not be reached is not tried again for an image that is here: twenty pods that start offline
/// must not wait for twenty time-outs.
const UNREACHABLE_FOR: Duration = Duration::from_secs(60);

/// Pulls for all pods of the node.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    /// `maxParallelImagePulls`: on a slow link one after the other ends sooner for the first.
    slots: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    backoff: Backoff,
    unreachable: HashMap<String, Instant>,
    pulling: HashMap<PullKey, watch::Receiver<Option<PullResult>>>,
}

type PullResult = Result<String, RuntimeError>;

/// Pulls of one image with different credentials are different pulls.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PullKey {
    image: String,
    handler: String,
    credentials: Vec<Vec<u8>>,
}

impl ImageError {
    fn of(reason: FailureReason, message: String) -> Self {
        Self::Failed { reason, message }
    }
}

impl Images {
    /// At most `n_parallel` pulls at a time, at least one.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, n_parallel: usize) -> Self {
        Self { runtime, slots: Semaphore::new(n_parallel.max(1)), state: Mutex::default() }
    }

    /// Makes sure that the image is here and gives the id to create the container from. `tell` gets what the user
    /// should see while it happens.
    pub async fn ensure(
        &self,
        wish: &Wish<'_>,
        clock: &(dyn Fn() -> Instant + Send + Sync),
        tell: &(dyn Fn(ImageNotice) + Send + Sync),
    ) -> Result<String, ImageError> {
        let image = ImageName::parse(wish.image)
            .map_err(|error| ImageError::of(FailureReason::InvalidImageName, error.to_string()))?;
        let policy = PullPolicy::of(wish.policy, &image);
        let spec = v1::ImageSpec {
            image: image.pull_name().to_owned(),
            user_specified_image: wish.image.to_owned(),
            runtime_handler: wish.runtime_handler.to_owned(),
            ..v1::ImageSpec::default()
        };
        let held = self.runtime.image_status(&spec).await.map_err(|error| {
            let message = format!("cannot look for image {:?}: {error}", wish.image);
            match is_away(&error) {
                true => ImageError::RuntimeAway(message),
                false => ImageError::of(FailureReason::ImageInspectError, message),
            }
        })?;
        let held = held.map(|image| image.id);
        let now = clock();
        let key = (wish.pod_uid.to_owned(), wish.image.to_owned());
        let (decision, last) = {
            let state = self.lock();
            let unreachable = state.unreachable.get(image.registry()).is_some_and(|until| now < *until);
            let waiting = state.backoff.waiting(&key, now);
            (decide(policy, held.is_some(), unreachable, waiting.is_some()), waiting.map(str::to_owned))
        };
        let held_id = held.unwrap_or_default();
        match decision {
            Decision::UseHeld => {
                tell(notice(
                    "Pulled",
                    format!("Container image {:?} already present on machine", wish.image),
                ));
                Ok(held_id)
            }
            Decision::UseHeldOffline => {
                tell(held_instead(wish.image));
                Ok(held_id)
            }
            Decision::NeverHere => {
                let message =
                    format!("Container image {:?} is not present with pull policy of Never", wish.image);
                let reason = FailureReason::ErrImageNeverPull;
                tell(warning(reason.word(), message.clone()));
                Err(ImageError::of(reason, message))
            }
            Decision::Wait => {
                let message = format!("Back-off pulling image {:?}", wish.image);
                tell(notice("BackOff", message.clone()));
                let message = format!("{message}: {}", last.unwrap_or_default());
                Err(ImageError::of(FailureReason::ImagePullBackOff, message))
            }
            Decision::Pull => {
                tell(notice("Pulling", format!("Pulling image {:?}", wish.image)));
                let result = self.pull_once(wish, &image, &spec).await;
                self.settle(wish, &image, key, result, (clock)(), held_id, tell, now)
            }
        }
    }

    /// Forgets the back-off of pods that are gone.
    pub fn forget_pod(&self, pod_uid: &str) {
        self.lock().backoff.entries.retain(|(uid, _), _| uid != pod_uid);
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `ensure`, split for reading")]
    fn settle(
        &self,
        wish: &Wish<'_>,
        image: &ImageName,
        key: (String, String),
        result: PullResult,
        now: Instant,
        held_id: String,
        tell: &(dyn Fn(ImageNotice) + Send + Sync),
        started: Instant,
    ) -> Result<String, ImageError> {
        let mut state = self.lock();
        let error = match result {
            Ok(id) => {
                state.backoff.entries.remove(&key);
                state.unreachable.remove(image.registry());
                drop(state);
                let took = now.saturating_duration_since(started);
                tell(notice("Pulled", format!("Successfully pulled image {:?} in {took:.0?}", wish.image)));
                return Ok(id);
            }
            Err(error) => error,
        };
        if is_away(&error) {
            // No back-off and no word: the pull was cut, not refused.
            return Err(ImageError::RuntimeAway(error.to_string()));
        }
        let unreachable = is_unreachable(&error);
        if unreachable {
            state.unreachable.insert(image.registry().to_owned(), now + UNREACHABLE_FOR);
        }
        if unreachable && !held_id.is_empty() {
            drop(state);
            tell(held_instead(wish.image));
            return Ok(held_id);
        }
        let (reason, message) = failure(wish.image, &error);
        state.backoff.failed(key, now, format!("{}: {message}", reason.word()));
        drop(state);
        tell(warning("Failed", format!("Failed to pull image {:?}: {message}", wish.image)));
        Err(ImageError::of(reason, message))
    }

    /// One pull serves everybody who waits for the same. When its caller goes away, the next waiting one pulls.
    async fn pull_once(&self, wish: &Wish<'_>, image: &ImageName, spec: &v1::ImageSpec) -> PullResult {
        let auths = wish.keyring.lookup(image);
        let key = PullKey {
            image: image.to_string(),
            handler: wish.runtime_handler.to_owned(),
            credentials: auths.iter().map(|auth| prost_bytes(auth)).collect(),
        };
        loop {
            let role = {
                let mut state = self.lock();
                match state.pulling.get(&key) {
                    Some(receiver) => Err(receiver.clone()),
                    None => {
                        let (sender, receiver) = watch::channel(None);
                        state.pulling.insert(key.clone(), receiver);
                        Ok(sender)
                    }
                }
            };
            match role {
                Ok(sender) => {
                    let _leader = Leader { images: self, key: &key };
                    let result = self.pull(wish, spec, &auths).await;
                    sender.send_replace(Some(result.clone()));
                    return result;
                }
                Err(mut receiver) => {
                    let result =
                        receiver.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
                    if let Some(result) = result {
                        return result;
                    }
                }
            }
        }
    }

    /// Tries every credential that fits, or none when none does.
    async fn pull(&self, wish: &Wish<'_>, spec: &v1::ImageSpec, auths: &[&v1::AuthConfig]) -> PullResult {
        let _slot = self.slots.acquire().await;
        if auths.is_empty() {
            return self.runtime.pull_image(spec, None, wish.sandbox).await;
        }
        let mut last = None;
        for auth in auths {
            match self.runtime.pull_image(spec, Some(auth), wish.sandbox).await {
                Err(error) if !is_unreachable(&error) => last = Some(error),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| RuntimeError::Unavailable("no pull was tried".to_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for the next pull, also when this one is given up.
struct Leader<'a> {
    images: &'a Images,
    key: &'a PullKey,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.images.lock().pulling.remove(self.key);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    UseHeld,
    UseHeldOffline,
    Pull,
    Wait,
    NeverHere,
}

/// The whole policy. `unreachable`: the registry could not be reached a moment ago; `waiting`: a pull failed lately.
fn decide(policy: PullPolicy, held: bool, unreachable: bool, waiting: bool) -> Decision {
    match (policy, held) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, true) => Decision::UseHeld,
        (PullPolicy::Never, false) => Decision::NeverHere,
        (PullPolicy::Always, true) if unreachable => Decision::UseHeldOffline,
        _ if waiting => Decision::Wait,
        _ => Decision::Pull,
    }
}

/// Delays after failed pulls.
#[derive(Default)]
struct Backoff {
    entries: BTreeMap<(String, String), Failed>,
}

struct Failed {
    at: Instant,
    delay: Duration,
    message: String,
}

impl Backoff {
    /// The last failure, while its delay runs.
    fn waiting(&self, key: &(String, String), now: Instant) -> Option<&str> {
        let failed = self.entries.get(key)?;
        (now < failed.at + failed.delay).then_some(failed.message.as_str())
    }

    fn failed(&mut self, key: (String, String), now: Instant, message: String) {
        let delay = match self.entries.get(&key) {
            // After a long quiet time it starts small again.
            Some(before) if now < before.at + before.delay + 2 * LAST_DELAY => {
                (before.delay * 2).min(LAST_DELAY)
            }
            _ => FIRST_DELAY,
        };
        self.entries.insert(key, Failed { at: now, delay, message });
    }
}

/// True when the registry did not answer at all, so that nothing is known about the image. Runtimes say so only in
/// their text: these are the words of Go's network code, of gateways, and of CRI's own error name.
fn is_unreachable(error: &RuntimeError) -> bool {
    const WORDS: [&str; 19] = [
        "RegistryUnavailable",
        "dial tcp",
        "dial udp",
        "no such host",
        "server misbehaving",
        "name resolution",
        "connection refused",
        "connection reset",
        "network is unreachable",
        "no route to host",
        "host is down",
        "i/o timeout",
        "handshake timeout",
        "Client.Timeout",
        "context deadline exceeded",
        "unexpected EOF",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ];
    match error {
        RuntimeError::Refused { message, .. } | RuntimeError::Unavailable(message) => {
            WORDS.iter().any(|word| message.contains(word))
        }
        RuntimeError::Timeout { .. } => true,
        _ => false,
    }
}

/// True when it was the runtime that could not be asked.
fn is_away(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Unavailable(_)) && !is_unreachable(error)
}

/// Reason and text of a failed pull. CRI marks two kinds by the first word of the message.
fn failure(image: &str, error: &RuntimeError) -> (FailureReason, String) {
    let text = error.to_string();
    for (reason, why) in [
        (FailureReason::RegistryUnavailable, "the registry is unavailable"),
        (FailureReason::SignatureValidationFailed, "the signature validation failed"),
    ] {
        if let Some(rest) = text.strip_prefix(reason.word()) {
            return (reason, format!("image pull failed for {image} because {why}{rest}"));
        }
    }
    if text.contains("no space left on device") {
        // Node pressure is seen to by itself; whoever reads this status should know that the registry is not to blame.
        return (
            FailureReason::ErrImagePull,
            format!("the disk of this node has no room for the image {image}: {text}"),
        );
    }
    (FailureReason::ErrImagePull, text)
}

fn held_instead(image: &str) -> ImageNotice {
    warning(
        "RegistryUnreachable",
        format!("the registry of image {image:?} cannot be reached: using the image that is on this machine"),
    )
}

fn notice(reason: &'static str, message: String) -> ImageNotice {
    ImageNotice { warning: false, reason, message }
}

fn warning(reason: &'static str, message: String) -> ImageNotice {
    ImageNotice { warning: true, reason, message }
}

/// Credentials as comparable bytes; they stay in memory.
fn prost_bytes(auth: &v1::AuthConfig) -> Vec<u8> {
    let parts = [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token];
    parts.map(String::as_str).join("\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::edged::cri_fake::FakeRuntime;

    const OFFLINE: &str =
        "failed to do request: Head https://r.example/v2/a: dial tcp: lookup r.example: no such host";

    fn refused(message: &str) -> RuntimeError {
        RuntimeError::Refused { code: Code::Unknown, message: message.to_owned() }
    }

    #[test]
    fn decisions() {
        use Decision::{NeverHere, Pull, UseHeld, UseHeldOffline, Wait};
        use PullPolicy::{Always, IfNotPresent, Never};
        let check = |policy, held, unreachable, waiting, expected| {
            assert_eq!(
                decide(policy, held, unreachable, waiting),
                expected,
                "{policy:?} {held} {unreachable} {waiting}"
            );
        };
        check(Never, true, false, true, UseHeld);
        check(Never, false, false, false, NeverHere);
        check(IfNotPresent, true, true, true, UseHeld);
        check(IfNotPresent, false, true, false, Pull);
        check(IfNotPresent, false, false, true, Wait);
        check(Always, true, false, false, Pull);
        check(Always, true, true, true, UseHeldOffline);
        check(Always, true, false, true, Wait);
        check(Always, false, true, false, Pull);
    }

    #[test]
    fn who_did_not_answer() {
        let check =
            |error: RuntimeError, expected: bool| assert_eq!(is_unreachable(&error), expected, "{error}");
        check(refused(OFFLINE), true);
        check(refused("RegistryUnavailable: down"), true);
        check(refused("unexpected status from HEAD request: 503 Service Unavailable"), true);
        check(refused("pull access denied, repository does not exist or may require authorization"), false);
        check(refused("unexpected status: 401 Unauthorized"), false);
        check(RuntimeError::NotFound("manifest unknown".into()), false);
        check(RuntimeError::Unavailable("the container runtime is away".into()), false);
    }

    struct Bench {
        fake: FakeRuntime,
        images: Images,
        notices: Mutex<Vec<&'static str>>,
        now: Mutex<Instant>,
    }

    impl Bench {
        fn new() -> Self {
            let fake = FakeRuntime::new();
            let images = Images::new(Arc::new(fake.clone()), 1);
            Self { fake, images, notices: Mutex::default(), now: Mutex::new(Instant::now()) }
        }

        /// The word of what went wrong; `None`: the runtime was away.
        async fn ensure(&self, image: &str) -> Result<String, Option<&'static str>> {
            let wish = Wish {
                pod_uid: "u",
                image,
                policy: None,
                keyring: &Keyring::new(),
                sandbox: &v1::PodSandboxConfig::default(),
                runtime_handler: "",
            };
            let tell = |notice: ImageNotice| self.notices.lock().unwrap().push(notice.reason);
            let clock = || *self.now.lock().unwrap();
            self.images.ensure(&wish, &clock, &tell).await.map_err(|error| match error {
                ImageError::RuntimeAway(_) => None,
                ImageError::Failed { reason, .. } => Some(reason.word()),
            })
        }

        fn wait(&self, seconds: u64) {
            *self.now.lock().unwrap() += Duration::from_secs(seconds);
        }

        fn notices(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.notices.lock().unwrap())
        }

        fn n_pulls(&self) -> usize {
            self.fake.calls().iter().filter(|call| call.name == "pull_image").count()
        }
    }

    /// The promise: boot without the uplink, image here, tag `latest`.
    #[tokio::test]
    async fn starts_offline_with_the_image_that_is_here() {
        let bench = Bench::new();
        bench.fake.add_image("r.example/a:latest", "");
        bench.fake.fail_always("pull_image", refused(OFFLINE));
        assert_eq!(bench.ensure("r.example/a").await.unwrap(), "sha256:r.example/a:latest");
        assert_eq!(bench.notices(), ["Pulling", "RegistryUnreachable"]);
        // The next one of this registry does not wait for another time-out.
        assert!(bench.ensure("r.example/a").await.is_ok());
        assert_eq!((bench.n_pulls(), bench.notices()), (1, vec!["RegistryUnreachable"]));
        // The uplink is back: the policy holds again.
        bench.fake.heal();
        bench.fake.add_to_registry("r.example/a:latest");
        bench.wait(61);
        assert!(bench.ensure("r.example/a").await.is_ok());
        assert_eq!((bench.n_pulls(), bench.notices()), (2, vec!["Pulling", "Pulled"]));
    }

    /// A registry that says no is obeyed even when the image is here.
    #[tokio::test]
    async fn a_no_is_a_no() {
        let bench = Bench::new();
        bench.fake.add_image("r.example/a:latest", "");
        bench.fake.fail_always("pull_image", refused("401 Unauthorized"));
        assert_eq!(bench.ensure("r.example/a").await.unwrap_err(), Some("ErrImagePull"));
    }

    #[tokio::test]
    async fn backs_off_and_recovers() {
        let bench = Bench::new();
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), Some("ErrImagePull"));
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), Some("ImagePullBackOff"));
        bench.wait(10);
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), Some("ErrImagePull"));
        bench.wait(19);
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), Some("ImagePullBackOff"));
        bench.fake.add_to_registry("a:1");
        bench.wait(1);
        assert!(bench.ensure("a:1").await.is_ok());
        assert_eq!(bench.n_pulls(), 3);
        assert!(bench.ensure("a:1").await.is_ok());
        assert_eq!(bench.n_pulls(), 3);
    }

    #[tokio::test]
    async fn bad_names_and_never() {
        let bench = Bench::new();
        assert_eq!(bench.ensure("Not A Name").await.unwrap_err(), Some("InvalidImageName"));
        bench.fake.fail_next("image_status", refused("broken"));
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), Some("ImageInspectError"));
    }

    #[tokio::test]
    async fn a_runtime_that_goes_away_is_no_failed_pull() {
        let bench = Bench::new();
        bench.fake.add_to_registry("a:1");
        let away = || RuntimeError::Unavailable("there is no container runtime socket".into());
        bench.fake.fail_next("image_status", away());
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), None);
        bench.fake.fail_next("pull_image", away());
        assert_eq!(bench.ensure("a:1").await.unwrap_err(), None);
        assert!(!bench.notices().contains(&"Failed"));
        // At once, without a back-off.
        assert!(bench.ensure("a:1").await.is_ok());
    }

    #[test]
    fn delays_double_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let key = ("u".to_owned(), "a".to_owned());
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.failed(key.clone(), now, String::new());
            let delay = backoff.entries[&key].delay;
            delays.push(delay.as_secs());
            now += delay;
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        backoff.failed(key.clone(), now + Duration::from_secs(3600), String::new());
        assert_eq!(backoff.entries[&key].delay, FIRST_DELAY);
    }

    #[tokio::test]
    async fn one_pull_serves_all() {
        let bench = Arc::new(Bench::new());
        bench.fake.add_to_registry("a:1");
        bench.fake.hold("pull_image");
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let bench = Arc::clone(&bench);
                tokio::spawn(async move { bench.ensure("a:1").await })
            })
            .collect();
        while bench.notices.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        bench.fake.release("pull_image");
        for call in calls {
            assert!(call.await.unwrap().is_ok());
        }
        assert_eq!(bench.n_pulls(), 1);
    }
}
