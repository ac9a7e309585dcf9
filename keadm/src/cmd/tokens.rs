//! `keadm token create|list|revoke`: join tokens with an end of one's own choice, and the way to take one back.
//!
//! Tokens are signed here with the CA's key out of the cluster; cloudcore takes no part in it. What is noted of them is a list
//! (`ke_wire::join_tokens`) that cloudcore reads whenever a machine shows one. A token's text is printed once and kept nowhere.
//! Certificates that machines have got with a token stay good when it is revoked.

mod lines;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use k8s_openapi::jiff::Timestamp;
use ke_wire::enrolment::JoinToken;
use ke_wire::join_tokens::{self, Claims, Issued, List};
use ring::rand::SecureRandom as _;
use serde_json::{Value, json};

use self::lines::{Line, lines};
use super::Failure;
use crate::age::span;
use crate::cluster::Cluster;
use crate::table::table;
use crate::token_secrets::{self, Ca, Changes};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// A token that nobody can revoke any more should not be longer about than the one who made it remembers it.
const LONGEST: u64 = 365 * DAY;
/// What has ended is listed for so long.
const KEPT: u64 = 7 * DAY;
/// A Secret holds 1 MiB; this and no more of a token's note goes into it.
const MAX_NOTE: usize = 200;
/// How the token that `gettoken` prints is called in place of its id.
const CURRENT: &str = "current";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a token that ends when you say, and print it.
    Create(Create),
    /// List what is known of tokens; never their text.
    List(ListArgs),
    /// Take a token back: no machine gets a certificate with it any more. Nodes that have joined stay.
    #[command(alias = "delete")]
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct At {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    kube_config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: keadm token create --ttl 30m --note 'hall 3'")]
struct Create {
    #[command(flatten)]
    at: At,
    /// How long it opens the door: a number and m, h or d; 1 minute to 365 days.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = ttl)]
    ttl: u64,
    /// What it is for, for whoever lists tokens later.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT", value_parser = note)]
    note: String,
    /// `token`: the token and nothing else; `json`: with its id and its end.
    #[arg(short, long, value_enum, default_value = "token")]
    output: Printed,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    at: At,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: keadm token revoke current")]
struct Revoke {
    #[command(flatten)]
    at: At,
    /// An id that `keadm token list` shows, or `current`: what gettoken prints; or the token itself.
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Printed {
    Token,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Create(args) => create(args),
        What::List(args) => list(args),
        What::Revoke(args) => revoke(args),
    }
}

fn create(args: &Create) -> Result<(), Failure> {
    let cluster = Cluster::connect(args.at.kube_config.as_deref())?;
    let ca = Ca::read(&cluster)?;
    let now = unix_now();
    let mut random = [0; 10];
    ring::rand::SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| anyhow!("this machine has no randomness"))?;
    let id = join_tokens::new_id(random);
    let (made_by, ends) = (join_tokens::KEADM.to_owned(), now + args.ttl);
    let token = ca.sign(&Claims { exp: ends, jti: Some(id.clone()), iss: Some(made_by) });
    let noted = Issued { made: now, ends, by: cluster.who(), note: args.note.clone(), revoked: None };
    let mut changes: Changes =
        old(&token_secrets::list(&cluster)?, now).map(|id| (id.clone(), None)).collect();
    changes.insert(id.clone(), Some(noted));
    // Noted first: a token that is in no list opens nothing.
    token_secrets::note(&cluster, &changes)?;
    match args.output {
        Printed::Token => {
            println!("{token}");
            eprintln!(
                "its id is {id}; it ends in {}; keadm token revoke {id} ends it at once",
                span(signed(args.ttl))
            );
        }
        Printed::Json => println!("{}", json!({"id": id, "token": token.to_string(), "ends": shown(ends)})),
    }
    Ok(())
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let cluster = Cluster::connect(args.at.kube_config.as_deref())?;
    let (list, now) = (token_secrets::list(&cluster)?, unix_now());
    let lines = lines(&list, token_secrets::find(&cluster)?.as_ref(), now);
    match args.output {
        Output::Json => {
            let all: Vec<Value> = lines.iter().map(Line::json).collect();
            println!("{}", serde_json::to_string_pretty(&all).context("write the list")?);
        }
        Output::Table => {
            let head = ["ID", "MADE", "ENDS", "STATE", "BY", "NOTE"].map(str::to_owned).to_vec();
            let rows: Vec<Vec<String>> =
                [head].into_iter().chain(lines.iter().map(|line| line.row(now))).collect();
            print!("{}", table(&rows));
        }
    }
    Ok(())
}

fn revoke(args: &Revoke) -> Result<(), Failure> {
    let cluster = Cluster::connect(args.at.kube_config.as_deref())?;
    let (list, current, now) = (token_secrets::list(&cluster)?, token_secrets::find(&cluster)?, unix_now());
    let order = order(&args.id, &list, current.as_ref(), now).map_err(Failure::Refused)?;
    let (id, noted) = match order {
        Order::Nothing(why) => {
            println!("{why}");
            return Ok(());
        }
        Order::Mark(id, noted) => (id, Some(noted)),
        Order::Replace(id, noted) => (id, noted),
    };
    if let Some(noted) = noted {
        token_secrets::note(&cluster, &BTreeMap::from([(id.clone(), Some(noted))]))?;
        println!(
            "{id} is revoked: no machine gets a certificate with it any more; nodes that have joined stay"
        );
    }
    let Some(current) = current.filter(|current| current.id().as_deref() == Some(&id)) else { return Ok(()) };
    // As long as the old one would have been good: by then cloudcore has made its next.
    let exp = current.ends().and_then(|ends| u64::try_from(ends).ok()).unwrap_or(now + DAY);
    let series = join_tokens::next_series(Some(&token_secrets::list(&cluster)?));
    let made = Ca::read(&cluster)
        .and_then(|ca| {
            let next = ca.sign(&Claims { exp, jti: Some(series), iss: None });
            Ok(token_secrets::replace(&cluster, &next)?)
        })
        .map_err(|failure| anyhow!("{failure}"));
    made.context("it is revoked, but there is no new one yet: type keadm token revoke current again")
        .map_err(Failure::Halfway)?;
    println!("keadm gettoken prints a new one");
    Ok(())
}

/// What is to be done about a token.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    /// It opens nothing already; a sentence.
    Nothing(String),
    /// Noted so.
    Mark(String, Issued),
    /// It is cloudcore's present one, which has to have a successor. `None`: noted before, and cut short.
    Replace(String, Option<Issued>),
}

/// `word`: an id, `current` or a token. Errors: one sentence.
fn order(word: &str, list: &List, current: Option<&JoinToken>, now: u64) -> Result<Order, String> {
    let shown: Option<JoinToken> = word.trim().parse().ok();
    // Ids of cloudcore's own are the same in every cluster.
    if let (Some(shown), Some(current)) = (&shown, current)
        && shown.ca_hash != current.ca_hash
    {
        return Err("this token is of another cluster: revoke it there (--kube-config FILE)".to_owned());
    }
    let meant = match (&shown, word) {
        (Some(token), _) => Some(token),
        (None, CURRENT) => Some(current.ok_or("there is no token in this cluster yet: cloudcore makes it")?),
        (None, _) => None,
    };
    let id = match meant {
        None => word.to_owned(),
        Some(token) => token.id().ok_or_else(|| {
            let ends = token.ends().map(|ends| span(ends.saturating_sub(signed(now))));
            format!(
                "this token has no id, as KubeEdge makes them, and cannot be revoked by itself. It ends {}; all tokens end at \
                 once with the CA, and with it every node's certificate: keadm reset cloud, then keadm init",
                ends.map_or_else(|| "never".to_owned(), |ends| format!("in {ends}"))
            )
        })?,
    };
    let is_current = current.is_some_and(|current| current.id().as_ref() == Some(&id));
    if let Some(entry) = list.get(&id) {
        // What cannot be read opens nothing.
        let noted: Issued = serde_json::from_slice(entry).unwrap_or_default();
        return Ok(match noted.revoked {
            Some(_) if is_current => Order::Replace(id, None),
            Some(_) => Order::Nothing(format!("{id} is revoked already")),
            None if noted.ends <= now => Order::Nothing(format!("{id} has ended already")),
            None => Order::Mark(id, Issued { revoked: Some(now), ..noted }),
        });
    }
    let ends = meant.or(current.filter(|_| is_current)).and_then(JoinToken::ends);
    let ends = u64::try_from(ends.unwrap_or_default()).unwrap_or_default();
    let noted = Issued { ends, revoked: Some(now), note: "of cloudcore".into(), ..Issued::default() };
    match meant {
        _ if is_current => Ok(Order::Replace(id, Some(noted))),
        Some(_) if ends <= now => Ok(Order::Nothing(format!("{id} has ended already"))),
        Some(_) => Ok(Order::Mark(id, noted)),
        None => Err(format!("there is no token {word:?}: keadm token list shows those that are")),
    }
}

/// Those of keadm's that have ended a while ago. What is noted of cloudcore's stays: their numbers count on.
fn old(list: &List, now: u64) -> impl Iterator<Item = &String> {
    let is_old = move |entry: &[u8]| {
        let issued: Option<Issued> = serde_json::from_slice(entry).ok();
        issued.is_some_and(|issued| issued.made > 0 && issued.ends.saturating_add(KEPT) < now)
    };
    list.iter().filter(move |(_, entry)| is_old(entry)).map(|(id, _)| id)
}

fn ttl(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("{text:?} must be a number and m, h or d, from 1 minute to 365 days; examples: 30m, 24h, 7d")
    };
    let unit = match text.chars().last() {
        Some('m') => MINUTE,
        Some('h') => HOUR,
        Some('d') => DAY,
        _ => return Err(wrong()),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u64>().ok());
    let seconds = number.and_then(|number| number.checked_mul(unit));
    seconds.filter(|seconds| (MINUTE..=LONGEST).contains(seconds)).ok_or_else(wrong)
}

fn note(text: &str) -> Result<String, String> {
    if text.len() > MAX_NOTE || text.chars().any(char::is_control) {
        return Err(format!("it must be one line of at most {MAX_NOTE} bytes"));
    }
    Ok(text.to_owned())
}

/// As `2026-11-22T06:00:00Z`.
fn shown(seconds: u64) -> String {
    Timestamp::from_second(signed(seconds)).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
