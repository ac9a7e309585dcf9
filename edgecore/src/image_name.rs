//! Names of images, such as `nginx` and `registry.example:5000/team/app:1@sha256:...`, and when an image is pulled by its
//! name. Pure.

use std::fmt;

/// A name that only parses when a registry could have it. Shown in full, Docker Hub's short forms completed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
    /// As the pod's author wrote it, with `:latest` where neither tag nor digest was.
    pull: String,
}

/// The name is none; the text of `InvalidImageName`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image name {name:?} is not valid: {why}")]
pub struct BadImageName {
    pub name: String,
    pub why: &'static str,
}

impl ImageName {
    /// Reads a name as a pod has it.
    pub fn parse(name: &str) -> Result<Self, BadImageName> {
        parse(name).map_err(|why| BadImageName { name: name.to_owned(), why })
    }

    /// `docker.io`, `registry.example:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What the runtime is asked for.
    #[must_use]
    pub fn pull_name(&self) -> &str {
        &self.pull
    }

    /// True when the name may mean another image tomorrow by its own word: tag `latest` and no digest.
    #[must_use]
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref() == Some("latest")
    }
}

/// When to pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The container's own word, else `Always` for the tag `latest` and `IfNotPresent` for every other.
    #[must_use]
    pub fn of(policy: Option<&str>, image: &ImageName) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if image.is_latest() => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<ImageName, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(valid_digest(digest)?)),
        None => (text, None),
    };
    // A colon behind the last slash starts a tag; one before it is the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(valid_tag(tag)?)),
        _ => (rest, None),
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let registry = match registry {
        "index.docker.io" => "docker.io",
        registry => registry,
    };
    let repository = if registry == "docker.io" && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository
    };
    valid_registry(registry)?;
    if repository.len() > 255 {
        return Err("the repository has more than 255 characters");
    }
    for part in repository.split('/') {
        valid_part(part)?;
    }
    let bare = tag.is_none() && digest.is_none();
    Ok(ImageName {
        registry: registry.to_owned(),
        repository,
        tag: if bare { Some("latest".to_owned()) } else { tag.map(str::to_owned) },
        digest: digest.map(str::to_owned),
        pull: if bare { format!("{text}:latest") } else { text.to_owned() },
    })
}

fn valid_digest(digest: &str) -> Result<&str, &'static str> {
    let (algorithm, hex) =
        digest.split_once(':').ok_or("a digest is written as sha256:<64 hexadecimal digits>")?;
    let length_fits = match algorithm {
        "sha256" => hex.len() == 64,
        "sha384" => hex.len() == 96,
        "sha512" => hex.len() == 128,
        _ => hex.len() >= 32,
    };
    let digits = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if length_fits && digits {
        Ok(digest)
    } else {
        Err("a digest is written as sha256:<64 hexadecimal digits>")
    }
}

fn valid_tag(tag: &str) -> Result<&str, &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts = tag.bytes().next().is_some_and(word);
    if starts && tag.len() <= 128 && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        Ok(tag)
    } else {
        Err("a tag has 1 to 128 letters, digits, '_', '.' and '-'")
    }
}

fn valid_registry(registry: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if registry.is_empty() || !registry.bytes().all(allowed) || registry.starts_with(['-', '.', ':']) {
        return Err("the registry is not a host name");
    }
    Ok(())
}

/// Lower case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn valid_part(part: &str) -> Result<(), &'static str> {
    const WHY: &str = "a repository has lower case letters and digits, joined by '.', '_', '__', '-' and '/'";
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !part.bytes().all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-')) {
        return Err(WHY);
    }
    let ends = part.bytes().next().is_some_and(alphanumeric) && part.bytes().last().is_some_and(alphanumeric);
    let joints_fit = part
        .split(|c: char| c.is_ascii_alphanumeric())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'));
    if ends && joints_fit { Ok(()) } else { Err(WHY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let check = |text: &str, full: &str, pull: &str, latest: bool| {
            let name = ImageName::parse(text).unwrap();
            let found = (name.to_string(), name.pull_name().to_owned(), name.is_latest());
            assert_eq!(found, (full.to_owned(), pull.to_owned(), latest), "{text}");
        };
        check("nginx", "docker.io/library/nginx:latest", "nginx:latest", true);
        check("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27", false);
        check("team/app", "docker.io/team/app:latest", "team/app:latest", true);
        check("index.docker.io/nginx:1", "docker.io/library/nginx:1", "index.docker.io/nginx:1", false);
        check("localhost/app:1", "localhost/app:1", "localhost/app:1", false);
        check("r.example:5000/app", "r.example:5000/app:latest", "r.example:5000/app:latest", true);
        check("r.example/a/b_c/d--e:V1", "r.example/a/b_c/d--e:V1", "r.example/a/b_c/d--e:V1", false);
        let pinned = format!("app@{digest}");
        check(&pinned, &format!("docker.io/library/app@{digest}"), &pinned, false);
        let both = format!("app:latest@{digest}");
        check(&both, &format!("docker.io/library/app:latest@{digest}"), &both, false);
    }

    #[test]
    fn refused() {
        for text in [
            "",
            " ",
            "Nginx",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a@b",
            "a b",
            "a__-b",
            "-r.x/a",
            "_a",
            "a:b:c",
        ] {
            assert!(ImageName::parse(text).is_err(), "{text}");
        }
    }
    #[test]
    fn policies() {
        let check = |policy: Option<&str>, image: &str, expected: PullPolicy| {
            assert_eq!(
                PullPolicy::of(policy, &ImageName::parse(image).unwrap()),
                expected,
                "{policy:?} {image}"
            );
        };
        check(None, "a", PullPolicy::Always);
        check(None, "a:latest", PullPolicy::Always);
        check(None, "a:1", PullPolicy::IfNotPresent);
        check(Some("Never"), "a", PullPolicy::Never);
        check(Some("IfNotPresent"), "a", PullPolicy::IfNotPresent);
        check(Some("Always"), "a:1", PullPolicy::Always);
    }
}
