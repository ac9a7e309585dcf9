//! What is there before an upgrade: looked at, tried against what is wanted, written for people, and put back.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apply::{Became, changed, try_one};
use crate::cluster::{Cluster, Refused, Write, shown};
use crate::cmd::{reset_cloud, takeover};
use crate::owned;

/// The objects as they are before anything is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

    /// A line for each object that would be another one. Errors: each that would be refused.
    pub(super) fn steps(&self, cluster: &Cluster, all: &[Value], how: Write) -> Result<Vec<String>> {
        let (mut steps, mut refused) = (Vec::new(), Vec::new());
        for object in all {
            match try_one(cluster, object, self.of(object), how) {
                Ok(Became::Keep) => {}
                Ok(word) => steps.push(format!("{word} {}", shown(object))),
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        if !refused.is_empty() {
            return Err(anyhow!(refused.join("\n  ")));
        }
        steps.extend(self.gone.iter().map(|object| format!("remove {}", shown(object))));
        Ok(steps)
    }

    pub(super) fn has(&self, object: &Value) -> bool {
        self.all().any(|one| is_same(one, object))
    }

    fn all(&self) -> impl Iterator<Item = &Value> {
        self.present.iter().chain(&self.gone)
    }

    pub(super) fn of(&self, object: &Value) -> Option<&Value> {
        self.present.iter().find(|one| is_same(one, object))
    }

    /// For kubectl, as a file of this name.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        let mut text = format!(
            "# cloudcore's objects as they were. The way back is keadm rollback cloud, or:\n\
             # kubectl apply --server-side --force-conflicts --field-manager=keadm -f {name}\n"
        );
        // Definitions and namespace as they are; of the rest what keadm has written, so that what others have stays theirs.
        for object in self.all() {
            let object =
                if is_shared(object) { takeover::plain(object) } else { owned::as_it_was(object, None) };
            let one = serde_saphyr::to_string(&object).context("write an object")?;
            text += &format!("---\n{}\n", one.trim_end());
        }
        Ok(text)
    }

    pub(super) fn prune(&self, cluster: &Cluster, say: &dyn Fn(&str)) -> Result<()> {
        self.gone.iter().try_for_each(|object| {
            cluster.delete(object)?;
            say(&format!("remove {}", shown(object)));
            Ok(())
        })
    }

    /// As it was, but for namespace and definitions. `made`: what goes unless it was there before. Out: what could not be put
    /// back, and why. Doing it again after it was cut short does no harm.
    pub(super) fn put_back(
        &self,
        cluster: &Cluster,
        made: &[Value],
        how: Write,
        say: &dyn Fn(&str),
    ) -> Vec<String> {
        let one_back = |before: &Value| {
            let now = cluster.get(before)?;
            let was = owned::as_it_was(before, now.as_ref());
            let after = cluster.apply(&was, how).map_err(|refused| match refused {
                Refused::Conflict(why) => anyhow!(why),
                Refused::Other(error) => error,
            })?;
            anyhow::Ok(changed(now.as_ref(), &after))
        };
        let one_away = |object: &Value| {
            if cluster.get(object)?.is_none() {
                return Ok(Became::Keep);
            }
            if how == Write::Over {
                cluster.delete(object)?;
            }
            anyhow::Ok(Became::Remove)
        };
        let back = self.all().filter(|object| !is_shared(object)).map(|object| (object, one_back(object)));
        let is_new = |object: &&Value| !is_shared(object) && !self.has(object);
        let away = made.iter().filter(is_new).map(|object| (object, one_away(object)));
        let mut left = Vec::new();
        for (object, done) in back.chain(away) {
            match done {
                Ok(Became::Keep) => {}
                Ok(word) => say(&format!("{word} {}", shown(object))),
                Err(error) => left.push(format!("{}: {error:#}", shown(object))),
            }
        }
        left
    }
}

/// Others use these, too: they are widened, and never put back.
fn is_shared(object: &Value) -> bool {
    object["kind"] == "Namespace" || object["kind"] == "CustomResourceDefinition"
}

pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    let metadata = |key: &str| one["metadata"][key] == other["metadata"][key];
    one["kind"] == other["kind"] && metadata("name") && metadata("namespace")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_backup_can_be_applied() {
        let ours = json!([{"manager": "keadm", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}}}}]);
        let present = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cloudcore", "namespace": "kubeedge",
            "uid": "1", "managedFields": ours}, "data": {"a": "1", "b": "theirs"}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "d", "uid": "2"}, "spec": {"x": 1}, "status": {}});
        let before = Before { present: vec![definition, present], gone: Vec::new() };
        let text = before.text("objects.yaml").unwrap();
        assert!(
            text.contains("--field-manager=keadm") && text.contains("a: \"1\"") && text.contains("x: 1"),
            "{text}"
        );
        assert!(!text.contains("theirs") && !text.contains("uid"), "{text}");
    }
}
