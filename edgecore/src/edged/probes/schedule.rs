//! When which probe of one container runs, and what its results add up to. Pure: times come in, nothing is called.
//!
//! [`ContainerProbes`] follows the kubelet: a startup probe gates the two others; a container is unready until its first
//! success; a threshold counts results in a row; a probe that could not be made counts for nothing. `mod.rs` drives it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::edged::verdict::{Kind, Seed, Verdict};

/// Kubernetes' defaults, for pods that did not pass through an API server.
const PERIOD_SECS: i32 = 10;
const FAILURES: i32 = 3;
const SUCCESSES: i32 = 1;
/// A process needs a moment until it listens, and these two may kill it. The kubelet's first probe comes anywhere within a
/// period; ours no sooner than this after the start.
const FIRST_BREATH: Duration = Duration::from_secs(1);

/// What a probe that could be made has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All is well.
    Well,
    /// It is not.
    Unwell,
}

/// The probes of one container, from its start to its end.
#[derive(Debug)]
pub struct ContainerProbes {
    startup: Option<Schedule>,
    liveness: Option<Schedule>,
    readiness: Option<Schedule>,
    is_ending: bool,
}

#[derive(Debug)]
struct Schedule {
    kind: Kind,
    /// Not before this: the container's start and the initial delay.
    not_before: Instant,
    period: Duration,
    n_well: u32,
    n_unwell: u32,
    due: Due,
    /// The last result and how often it came in a row.
    run: Option<(Found, u32)>,
    decided: Option<Found>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    At(Instant),
    /// It is being made; it was due then.
    Running(Instant),
    /// Nothing more to ask of this container.
    Never,
}

impl ContainerProbes {
    /// Probes of a container that runs for `age` now; `None` when it has none. `seed` is what an earlier process of ours
    /// told of this same container. `phase` (of 256) of a period passes before a probe of what was well is repeated, so
    /// that after a start not all containers are asked at once.
    #[must_use]
    pub fn new(container: &Container, age: Duration, seed: Seed, phase: u8, now: Instant) -> Option<Self> {
        let schedule = |kind: Kind, well: bool| {
            let mut schedule = Schedule::new(kind, kind.probe(container)?, age, now);
            if well {
                schedule.decided = Some(Found::Well);
                let wait = schedule.period.saturating_mul(u32::from(phase)) / 256;
                schedule.due = match kind {
                    Kind::Startup => Due::Never,
                    Kind::Liveness | Kind::Readiness => Due::At(schedule.not_before + wait),
                };
            }
            Some(schedule)
        };
        let probes = Self {
            startup: schedule(Kind::Startup, seed.started),
            // Alive until it is found otherwise; never seeded as dead.
            liveness: schedule(Kind::Liveness, seed.started),
            readiness: schedule(Kind::Readiness, seed.started && seed.ready),
            is_ending: false,
        };
        let any = probes.startup.is_some() || probes.liveness.is_some() || probes.readiness.is_some();
        any.then_some(probes)
    }

    /// The Pod ends: it is not killed for being unwell any more, and counts as started. Readiness is still asked.
    pub fn end(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_ending, true) {
            self.wake_gated(now);
        }
    }

    /// A probe to make now; call until there is none. Each that is given comes back through `on_result`.
    pub fn poll(&mut self, now: Instant) -> Option<Kind> {
        let due = self.open().find(|schedule| matches!(schedule.due, Due::At(at) if at <= now))?;
        if let Due::At(at) = due.due {
            due.due = Due::Running(at);
        }
        Some(due.kind)
    }

    /// When `poll` has something next.
    #[must_use]
    pub fn next_due(&mut self) -> Option<Instant> {
        self.open().filter_map(|schedule| if let Due::At(at) = schedule.due { Some(at) } else { None }).min()
    }

    /// What a probe has found; `None`: it could not be made.
    pub fn on_result(&mut self, kind: Kind, found: Option<Found>, now: Instant) {
        let Some(schedule) = self.of(kind) else { return };
        let was = schedule.decided;
        schedule.on_result(found, now);
        let has_started = kind == Kind::Startup && was != schedule.decided;
        if has_started {
            self.wake_gated(now);
        }
    }

    /// What is known of the container now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let started = self.is_ending || well(&self.startup);
        let failed = match (self.is_ending, unwell(&self.startup), unwell(&self.liveness)) {
            (true, _, _) | (false, false, false) => None,
            (false, true, _) => Some(Kind::Startup),
            (false, false, true) => Some(Kind::Liveness),
        };
        Verdict { started, ready: started && well(&self.readiness), failed }
    }

    /// Those that may run: startup alone until it has passed.
    fn open(&mut self) -> impl Iterator<Item = &mut Schedule> {
        let started = self.verdict().started;
        let ending = self.is_ending;
        let all = [&mut self.startup, &mut self.liveness, &mut self.readiness];
        all.into_iter().flatten().filter(move |schedule| match schedule.kind {
            Kind::Startup => !ending && !started,
            Kind::Liveness => !ending && started,
            Kind::Readiness => started,
        })
    }

    fn of(&mut self, kind: Kind) -> Option<&mut Schedule> {
        match kind {
            Kind::Startup => self.startup.as_mut(),
            Kind::Liveness => self.liveness.as_mut(),
            Kind::Readiness => self.readiness.as_mut(),
        }
    }

    /// What waited for the startup probe begins at once, unless its own delay says later.
    fn wake_gated(&mut self, now: Instant) {
        for schedule in [&mut self.liveness, &mut self.readiness].into_iter().flatten() {
            if let Due::At(at) = schedule.due {
                schedule.due = Due::At(at.max(now));
            }
        }
    }
}

impl Schedule {
    fn new(kind: Kind, probe: &Probe, age: Duration, now: Instant) -> Self {
        let number = |value: Option<i32>, default: i32| {
            u32::try_from(value.filter(|value| *value > 0).unwrap_or(default)).unwrap_or(1)
        };
        let secs = |value: Option<i32>, default| Duration::from_secs(number(value, default).into());
        let delay = secs(probe.initial_delay_seconds, 0);
        let first = match kind {
            Kind::Startup | Kind::Liveness => delay.max(FIRST_BREATH),
            Kind::Readiness => delay,
        };
        let not_before = now + first.saturating_sub(age);
        Self {
            kind,
            not_before,
            period: secs(probe.period_seconds, PERIOD_SECS),
            n_well: number(probe.success_threshold, SUCCESSES),
            n_unwell: number(probe.failure_threshold, FAILURES),
            due: Due::At(not_before),
            run: None,
            decided: None,
        }
    }

    fn on_result(&mut self, found: Option<Found>, now: Instant) {
        if let Due::Running(at) = self.due {
            // One that took longer than its period is followed at once; those missed meanwhile are not made up for.
            self.due = Due::At((at + self.period).max(now));
        }
        let Some(found) = found else { return };
        let n = match self.run {
            Some((last, n)) if last == found => n.saturating_add(1),
            _ => 1,
        };
        self.run = Some((found, n));
        let enough = match found {
            Found::Well => self.n_well,
            Found::Unwell => self.n_unwell,
        };
        if n < enough {
            return;
        }
        self.decided = Some(found);
        // What is to be killed, or has started, is left alone.
        if self.kind == Kind::Startup || (self.kind == Kind::Liveness && found == Found::Unwell) {
            self.due = Due::Never;
        }
    }
}

/// It is well, or nobody asks.
fn well(schedule: &Option<Schedule>) -> bool {
    schedule.as_ref().is_none_or(|schedule| schedule.decided == Some(Found::Well))
}

fn unwell(schedule: &Option<Schedule>) -> bool {
    schedule.as_ref().is_some_and(|schedule| schedule.decided == Some(Found::Unwell))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Plays a container on virtual time: each second, due probes answer what `world` says of that second. Gives a line
    /// for each second in which something was probed or the verdict changed: `second: probes, verdict`.
    fn play(probes: serde_json::Value, secs: u64, world: impl Fn(Kind, u64) -> Option<Found>) -> Vec<String> {
        play_from(probes, secs, Duration::ZERO, Seed::default(), |_, _, _| {}, world)
    }

    fn play_from(
        probes: serde_json::Value,
        secs: u64,
        age: Duration,
        seed: Seed,
        meddle: impl Fn(&mut ContainerProbes, u64, Instant),
        world: impl Fn(Kind, u64) -> Option<Found>,
    ) -> Vec<String> {
        let mut body = json!({"name": "app"});
        for (key, value) in probes.as_object().unwrap() {
            body[key] = value.clone();
        }
        let container: Container = serde_json::from_value(body).unwrap();
        let start = Instant::now();
        let mut probes = ContainerProbes::new(&container, age, seed, 128, start).expect("it has probes");
        let mut lines = Vec::new();
        let mut told = None;
        for second in 0..=secs {
            let now = start + Duration::from_secs(second);
            meddle(&mut probes, second, now);
            let mut made = String::new();
            while let Some(kind) = probes.poll(now) {
                made.push_str(&kind.as_str()[..1]);
                probes.on_result(kind, world(kind, second), now);
            }
            let verdict = probes.verdict();
            if !made.is_empty() || told != Some(verdict) {
                let word = match verdict {
                    Verdict { failed: Some(kind), .. } => format!("{} failed", kind.as_str()),
                    Verdict { ready: true, .. } => "ready".into(),
                    Verdict { started: true, .. } => "started".into(),
                    _ => "-".into(),
                };
                lines.push(format!("{second}: {made} {word}"));
                told = Some(verdict);
            }
        }
        lines
    }

    fn always_well(_: Kind, _: u64) -> Option<Found> {
        Some(Found::Well)
    }

    #[test]
    fn no_probes_no_schedule() {
        let container = Container { name: "app".into(), ..Container::default() };
        assert!(
            ContainerProbes::new(&container, Duration::ZERO, Seed::default(), 0, Instant::now()).is_none()
        );
    }

    #[test]
    fn readiness_is_asked_at_once_and_counts_in_a_row() {
        let probe =
            json!({"readinessProbe": {"periodSeconds": 2, "successThreshold": 2, "failureThreshold": 2}});
        let bad_from_8 = |_, second| Some(if second < 8 { Found::Well } else { Found::Unwell });
        assert_eq!(
            play(probe.clone(), 13, bad_from_8),
            [
                "0: R started",
                "2: R ready",
                "4: R ready",
                "6: R ready",
                "8: R ready",
                "10: R started",
                "12: R started"
            ]
        );
        // One good among bad ones begins the count anew.
        let flaps = |_, second| Some(if second % 4 == 0 { Found::Well } else { Found::Unwell });
        assert!(play(probe, 20, flaps).iter().all(|line| line.ends_with("started")));
    }

    #[test]
    fn the_initial_delay_is_kept_and_counts_from_the_start() {
        let probe = json!({"readinessProbe": {"initialDelaySeconds": 5, "periodSeconds": 3}});
        assert_eq!(play(probe.clone(), 8, always_well), ["0:  started", "5: R ready", "8: R ready"]);
        let old = Duration::from_secs(4);
        assert_eq!(
            play_from(probe.clone(), 1, old, Seed::default(), |_, _, _| {}, always_well),
            ["0:  started", "1: R ready"]
        );
        // A clock that was set back makes a container no younger than new; one set forward no more than old.
        let older = Duration::from_secs(1 << 40);
        assert_eq!(play_from(probe, 0, older, Seed::default(), |_, _, _| {}, always_well), ["0: R ready"]);
    }

    #[test]
    fn liveness_fails_at_its_threshold_and_then_leaves_the_container_alone() {
        let probe = json!({"livenessProbe": {"periodSeconds": 1, "failureThreshold": 3}});
        let bad_from_2 = |_, second| Some(if second < 2 { Found::Well } else { Found::Unwell });
        assert_eq!(
            play(probe.clone(), 9, bad_from_2),
            ["0:  ready", "1: L ready", "2: L ready", "3: L ready", "4: L Liveness failed"]
        );
        // What could not be probed counts for nothing, and does not break a row either.
        let errors = |_, second| (second != 3).then_some(Found::Unwell);
        assert_eq!(
            play(probe, 9, errors),
            ["0:  ready", "1: L ready", "2: L ready", "3: L ready", "4: L Liveness failed"]
        );
    }

    #[test]
    fn startup_gates_the_others() {
        let probes = json!({
            "startupProbe": {"periodSeconds": 2, "failureThreshold": 4},
            "livenessProbe": {"periodSeconds": 3},
            "readinessProbe": {"periodSeconds": 3, "initialDelaySeconds": 7},
        });
        let up_at_5 = |kind, second| {
            Some(if kind != Kind::Startup || second >= 5 { Found::Well } else { Found::Unwell })
        };
        assert_eq!(
            play(probes.clone(), 8, up_at_5),
            ["0:  -", "1: S -", "3: S -", "5: SL started", "7: R ready", "8: L ready"]
        );
        let never = |_, _| Some(Found::Unwell);
        assert_eq!(play(probes, 20, never), ["0:  -", "1: S -", "3: S -", "5: S -", "7: S Startup failed"]);
    }

    #[test]
    fn a_pod_that_ends_is_killed_by_no_probe_and_still_asked_whether_it_is_ready() {
        let probes = json!({
            "startupProbe": {"periodSeconds": 1, "failureThreshold": 100},
            "livenessProbe": {"periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"periodSeconds": 2, "failureThreshold": 1},
        });
        let end_at_2 = |probes: &mut ContainerProbes, second, now| {
            if second == 2 {
                probes.end(now);
            }
        };
        let unwell = |_, _| Some(Found::Unwell);
        let lines = play_from(probes, 5, Duration::ZERO, Seed::default(), end_at_2, unwell);
        assert_eq!(lines, ["0:  -", "1: S -", "2: R started", "4: R started"]);
    }

    #[test]
    fn what_was_well_before_a_restart_of_ours_stays_so() {
        let probes = json!({
            "startupProbe": {"periodSeconds": 1},
            "livenessProbe": {"periodSeconds": 4},
            "readinessProbe": {"periodSeconds": 4, "failureThreshold": 1},
        });
        let old = Duration::from_secs(100);
        let seed = Seed { started: true, ready: true };
        let lost_at_6 = |_, second| Some(if second < 6 { Found::Well } else { Found::Unwell });
        assert_eq!(
            play_from(probes.clone(), 6, old, seed, |_, _, _| {}, lost_at_6),
            ["0:  ready", "2: LR ready", "6: LR started"]
        );
        // Unready before: asked at once.
        let seed = Seed { started: true, ready: false };
        assert_eq!(play_from(probes, 2, old, seed, |_, _, _| {}, always_well), ["0: R ready", "2: L ready"]);
    }

    #[test]
    fn a_slow_probe_is_followed_at_once_but_not_made_up_for() {
        let container: Container =
            serde_json::from_value(json!({"name": "app", "readinessProbe": {"periodSeconds": 1}})).unwrap();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut probes = ContainerProbes::new(&container, Duration::ZERO, Seed::default(), 0, start).unwrap();
        assert_eq!(probes.poll(at(0)), Some(Kind::Readiness));
        assert_eq!((probes.poll(at(3)), probes.next_due()), (None, None), "one at a time");
        probes.on_result(Kind::Readiness, Some(Found::Well), at(5));
        assert_eq!(probes.next_due(), Some(at(5)));
        assert_eq!(probes.poll(at(5)), Some(Kind::Readiness));
        probes.on_result(Kind::Readiness, Some(Found::Well), at(5));
        assert_eq!(probes.next_due(), Some(at(6)));
    }
}
