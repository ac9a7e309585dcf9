//! What is there before an upgrade: looked at, tried against what is wanted, kept in a file, and put back.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::OBJECTS;
use crate::apply::{changed, marked};
use crate::cluster::{Cluster, Refused, Write, shown};
use crate::cmd::{reset_cloud, takeover};
use crate::host::Host;
use crate::owned;

/// The objects as they are before anything is changed.
pub(super) struct Before {
    /// Those that are to be written, where they are there.
    pub(super) present: Vec<Value>,
    /// keadm's of an earlier version or with other values, which are not wanted any more.
    pub(super) gone: Vec<Value>,
}

impl Before {
    pub(super) fn read(cluster: &Cluster, all: &[Value]) -> Result<Self> {
        let read = |object: &Value| cluster.get(object).transpose();
        let present = all.iter().filter_map(read).collect::<Result<_>>()?;
        let made = reset_cloud::all_made(cluster)?;
        let is_gone = |object: &&Value| !all.iter().any(|one| is_same(one, object));
        let gone = made.iter().filter(is_gone).filter_map(read).collect::<Result<_>>()?;
        Ok(Self { present, gone })
    }

    /// A line for each object that would be another one. Errors: it would be refused.
    pub(super) fn steps(&self, cluster: &Cluster, all: &[Value], how: Write) -> Result<Vec<String>> {
        let mut steps = Vec::new();
        for object in all {
            let word = match self.of(object) {
                None => "create",
                Some(before) => match cluster.apply(&marked(object, Some(before)), Write::Try) {
                    Ok(after) => changed(Some(before), &after),
                    Err(Refused::Conflict(_)) if how == Write::Over => "change",
                    Err(Refused::Conflict(why)) => {
                        return Err(anyhow!(
                            "{} was changed by somebody else: {why}; add --force to take that back",
                            shown(object)
                        ));
                    }
                    Err(Refused::Other(error)) => return Err(error),
                },
            };
            if word != "keep" {
                steps.push(format!("{word} {}", shown(object)));
            }
        }
        steps.extend(self.gone.iter().map(|object| format!("remove {}", shown(object))));
        Ok(steps)
    }

    pub(super) fn of(&self, object: &Value) -> Option<&Value> {
        self.present.iter().find(|one| is_same(one, object))
    }

    pub(super) fn keep(&self, host: &dyn Host, folder: &Path) -> Result<()> {
        let mut text = format!(
            "# cloudcore's objects before keadm upgrade cloud. The way back:\n\
             # kubectl apply --server-side --force-conflicts --field-manager=keadm -f {OBJECTS}\n"
        );
        // Definitions and namespace as they are; of the rest what keadm has written, so that what others have stays theirs.
        for object in self.present.iter().chain(&self.gone) {
            let object =
                if is_shared(object) { takeover::plain(object) } else { owned::as_it_was(object, None) };
            let one = serde_saphyr::to_string(&object).context("write an object")?;
            text += &format!("---\n{}\n", one.trim_end());
        }
        let advice = || format!("write {}; another folder: --backup-dir FOLDER", folder.display());
        if host.exists(&folder.join(OBJECTS)) {
            bail!("{} holds the objects before another upgrade: type the same again", folder.display());
        }
        let mut above: Vec<&Path> = folder.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for path in above.into_iter().filter(|path| !host.exists(path)) {
            host.make_folder(path, 0o755).with_context(advice)?;
        }
        host.write(&folder.join(OBJECTS), text.as_bytes(), 0o600).with_context(advice)
    }

    pub(super) fn prune(&self, cluster: &Cluster, say: &dyn Fn(&str)) -> Result<()> {
        self.gone.iter().try_for_each(|object| {
            cluster.delete(object)?;
            say(&format!("remove {}", shown(object)));
            Ok(())
        })
    }

    /// As it was, but for namespace and definitions.
    pub(super) fn put_back(&self, cluster: &Cluster, all: &[Value], say: &dyn Fn(&str)) -> Vec<String> {
        let mut left = Vec::new();
        for object in all.iter().filter(|object| !is_shared(object)) {
            let done = match self.of(object) {
                Some(before) => cluster.get(object).and_then(|now| {
                    let was = owned::as_it_was(before, now.as_ref());
                    cluster.apply(&was, Write::Over).map_err(|refused| match refused {
                        Refused::Conflict(why) => anyhow!(why),
                        Refused::Other(error) => error,
                    })?;
                    Ok(())
                }),
                None => cluster.delete(object),
            };
            if let Err(error) = done {
                left.push(format!("{}: {error:#}", shown(object)));
            }
        }
        if left.is_empty() {
            say("the objects of before are back");
        }
        left
    }
}

/// Others use these, too: they are widened, and never put back.
fn is_shared(object: &Value) -> bool {
    object["kind"] == "Namespace" || object["kind"] == "CustomResourceDefinition"
}

fn is_same(one: &Value, other: &Value) -> bool {
    let metadata = |key: &str| one["metadata"][key] == other["metadata"][key];
    one["kind"] == other["kind"] && metadata("name") && metadata("namespace")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn the_backup_can_be_applied() {
        let ours = json!([{"manager": "keadm", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}}}}]);
        let present = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cloudcore", "namespace": "kubeedge",
            "uid": "1", "managedFields": ours}, "data": {"a": "1", "b": "theirs"}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "d", "uid": "2"}, "spec": {"x": 1}, "status": {}});
        let before = Before { present: vec![definition, present], gone: Vec::new() };
        let host = FakeHost::new(&["/", "/var", "/var/lib"]);
        before.keep(&host, Path::new("/var/lib/keadm-cloud/now")).unwrap();
        let text = host.read(Path::new("/var/lib/keadm-cloud/now/objects.yaml")).unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("--field-manager=keadm") && text.contains("a: \"1\"") && text.contains("x: 1"),
            "{text}"
        );
        assert!(!text.contains("theirs") && !text.contains("uid"), "{text}");
    }
}
