//! Redis: sorted sets with a member for each value. The three commands that this takes are spoken here.
//!
//! KubeEdge's key is the device's name without its namespace, and its readers look there.

use std::fmt;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::push::http::{dial, told};
use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::Redis;

/// Status, error and number are one short line each.
const LONGEST_REPLY: u64 = 4096;
/// Errors that say how the server is, not what is wrong with a command.
const OF_THE_SERVER: &[&str] = &[
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "MISCONF",
    "OOM",
    "BUSY",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
];

/// What is delivered.
pub(crate) struct Member {
    /// The sorted set.
    pub(crate) key: String,
    /// Milliseconds since 1970.
    pub(crate) score: i64,
    /// The value.
    pub(crate) member: String,
}

/// A connection, logged in.
pub(crate) struct Session(BufReader<TcpStream>);

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://{}/{}", self.place, self.database)
    }
}

impl Target for Redis {
    type Parcel = Member;
    type Session = Session;

    async fn connect(&self, secrets: &Secrets) -> Result<Session, Failure> {
        let mut session = Session(BufReader::new(dial(&self.place).await?));
        // Whatever is wrong with these is so for all values.
        let away = |failure| match failure {
            Failure::Refused(why) | Failure::Busy(why) | Failure::Away(why) => Failure::Away(why),
        };
        if !secrets.password.is_empty() {
            match session.ask(&["AUTH", &secrets.password]).await {
                // The one password of the mapper's environment may be that of another database.
                Err(Failure::Away(why)) if wants_no_password(&why) => {}
                answer => answer.map_err(away)?,
            }
        }
        if self.database > 0 {
            session.ask(&["SELECT", &self.database.to_string()]).await.map_err(away)?;
        }
        Ok(session)
    }

    async fn deliver(&self, session: &mut Session, member: &Member) -> Result<(), Failure> {
        session.ask(&["ZADD", &member.key, &member.score.to_string(), &member.member]).await
    }
}

impl Session {
    async fn ask(&mut self, words: &[&str]) -> Result<(), Failure> {
        self.0.write_all(&command(words)).await.map_err(|error| Failure::io(&error))?;
        let mut reply = Vec::new();
        let mut line = (&mut self.0).take(LONGEST_REPLY);
        line.read_until(b'\n', &mut reply).await.map_err(|error| Failure::io(&error))?;
        verdict(&reply)
    }
}

/// Whether a server complains of a password as everybody may come in: Redis 6 and later, and before.
fn wants_no_password(why: &str) -> bool {
    why.contains("without any password configured") || why.contains("no password is set")
}

/// A command as the server reads it: whatever is in the words, it cannot be taken for another.
fn command(words: &[&str]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend(format!("${}\r\n", word.len()).into_bytes());
        command.extend(word.as_bytes());
        command.extend(b"\r\n");
    }
    command
}

fn verdict(reply: &[u8]) -> Result<(), Failure> {
    let Some(line) = reply.strip_suffix(b"\r\n") else {
        return Err(Failure::Away("the server closed the connection".to_owned()));
    };
    match line.split_first() {
        Some((b'+' | b':', _)) => Ok(()),
        Some((b'-', error)) => {
            let error = told(error);
            let code = error.split(' ').next().unwrap_or_default();
            let why = format!("the server answers {error}");
            if code == "NOAUTH" || code == "WRONGPASS" || error.contains("AUTH") {
                Err(Failure::Away(format!("{why}; set PASSWORD in the mapper's environment to the server's")))
            } else if OF_THE_SERVER.contains(&code) {
                Err(Failure::Away(why))
            } else {
                Err(Failure::Refused(why))
            }
        }
        _ => Err(Failure::Away("what answers there is no Redis".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(
            command(&["ZADD", "oven-1", "5", "a\r\nü"]),
            "*4\r\n$4\r\nZADD\r\n$6\r\noven-1\r\n$1\r\n5\r\n$5\r\na\r\nü\r\n".as_bytes()
        );
    }

    #[test]
    fn passwords_that_nobody_wants() {
        let check = |reply: &str, expected: bool| {
            let Err(Failure::Away(why)) = verdict(reply.as_bytes()) else { panic!("{reply}") };
            assert_eq!(wants_no_password(&why), expected, "{why}");
        };
        check("-ERR AUTH <password> called without any password configured for the default user.\r\n", true);
        check("-ERR Client sent AUTH, but no password is set\r\n", true);
        check("-WRONGPASS invalid username-password pair or user is disabled.\r\n", false);
        check("-NOAUTH Authentication required.\r\n", false);
    }

    #[test]
    fn verdicts() {
        let check = |reply: &str, expected: Result<(), &str>| {
            let found = verdict(reply.as_bytes()).map_err(|failure| format!("{failure:?}")[..4].to_owned());
            assert_eq!(found, expected.map_err(str::to_owned), "{reply:?}");
        };
        check("+OK\r\n", Ok(()));
        check(":1\r\n", Ok(()));
        check("-WRONGTYPE Operation against a key\r\n", Err("Refu"));
        check("-NOAUTH Authentication required.\r\n", Err("Away"));
        check("-ERR AUTH <password> called without any password configured\r\n", Err("Away"));
        check("-LOADING Redis is loading\r\n", Err("Away"));
        check("-ERR Client sent AUTH, but no password is set\r\n", Err("Away"));
        check("", Err("Away"));
        check(":1", Err("Away"));
        check("HTTP/1.1 400\r\n", Err("Away"));
    }
}
