//! Files as they will lie on a machine: what an archive, a Debian package, an RPM and an image's layer hold. Pure.
//!
//! They are sorted by path and belong to root; folders come by themselves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::tar::Tar;

#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, File>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub mode: u32,
    pub content: Vec<u8>,
    pub role: Role,
}

/// What a package manager should know of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Plain,
    Licence,
}

impl Tree {
    /// A file at `path` (from the root, without the leading slash).
    #[must_use]
    pub fn with(mut self, path: &str, mode: u32, role: Role, content: &[u8]) -> Self {
        let path = path.trim_start_matches('/').to_owned();
        self.files.insert(path, File { mode, content: content.to_vec(), role });
        self
    }

    /// Sorted by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Every folder above a file, sorted.
    pub fn folders(&self) -> BTreeSet<&str> {
        let ends = |path: &str| path.match_indices('/').map(|(end, _)| end).collect::<Vec<_>>();
        self.files.keys().flat_map(|path| ends(path).into_iter().filter_map(|end| path.get(..end))).collect()
    }

    pub fn n_bytes(&self) -> usize {
        self.files.values().map(|file| file.content.len()).sum()
    }

    /// As a tar archive. `before` stands before each path: nothing, or `./` as in Debian's packages.
    pub fn tar(&self, date: u64, before: &str) -> Result<Vec<u8>> {
        let mut tar = Tar::dated(date);
        if let Some(root) = before.strip_suffix('/') {
            tar.folder(root, 0o755)?;
        }
        // A folder sorts before what is in it.
        let mut entries: BTreeMap<&str, Option<&File>> =
            self.folders().into_iter().map(|path| (path, None)).collect();
        entries.extend(self.files.iter().map(|(path, file)| (path.as_str(), Some(file))));
        for (path, file) in entries {
            let name = format!("{before}{path}");
            match file {
                None => tar.folder(&name, 0o755)?,
                Some(file) => tar.file(&name, file.mode, &file.content)?,
            }
        }
        Ok(tar.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_first_and_the_order_of_making_does_not_matter() {
        let one = Tree::default().with("usr/bin/a", 0o755, Role::Plain, b"a").with(
            "/etc/b",
            0o644,
            Role::Plain,
            b"bb",
        );
        let other = Tree::default().with("etc/b", 0o644, Role::Plain, b"bb").with(
            "usr/bin/a",
            0o755,
            Role::Plain,
            b"a",
        );
        assert_eq!(one.tar(7, "./").unwrap(), other.tar(7, "./").unwrap());
        assert_eq!(one.folders().into_iter().collect::<Vec<_>>(), ["etc", "usr", "usr/bin"]);
        assert_eq!(one.n_bytes(), 3);
        let tar = one.tar(7, "./").unwrap();
        let names: Vec<&str> = [0, 1, 2, 4, 5, 6]
            .into_iter()
            .map(|block| std::str::from_utf8(&tar[block * 512..block * 512 + 20]).unwrap())
            .map(|name| name.trim_end_matches('\0'))
            .collect();
        assert_eq!(names, ["./", "./etc/", "./etc/b", "./usr/", "./usr/bin/", "./usr/bin/a"]);
    }
}
