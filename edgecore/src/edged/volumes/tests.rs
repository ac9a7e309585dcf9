//! Tests of volumes on plain folders, with mounts only noted.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ke_cri::v1::MountPropagation;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::edged::sources::fake::FakeObjects;

/// Remembers mounts instead of making them.
#[derive(Default)]
struct FakeMounter {
    mounts: Mutex<Vec<MountPoint>>,
    sizes: Mutex<Vec<Option<u64>>>,
    bound: Mutex<Vec<PathBuf>>,
    refuses: AtomicBool,
}

impl FakeMounter {
    fn add(&self, path: &Path) {
        self.mounts.lock().unwrap().push(MountPoint { path: path.to_owned(), kind: "tmpfs".into() });
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.mounts.lock().unwrap().iter().map(|mount| mount.path.clone()).collect()
    }
}

impl Mounter for FakeMounter {
    fn at_and_below(&self, dir: &Path) -> io::Result<Vec<MountPoint>> {
        Ok(self.mounts.lock().unwrap().iter().filter(|mount| mount.path.starts_with(dir)).cloned().collect())
    }

    fn memory(&self, target: &Path, size: Option<u64>) -> io::Result<()> {
        self.sizes.lock().unwrap().push(size);
        self.add(target);
        Ok(())
    }

    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        let source = fs::read_link(format!("/proc/self/fd/{}", source.as_raw_fd()))?;
        assert_eq!(source.is_dir(), target.is_dir());
        self.bound.lock().unwrap().push(source);
        self.add(target);
        Ok(())
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let mut mounts = self.mounts.lock().unwrap();
        let last = mounts.iter().rposition(|mount| mount.path == target).unwrap();
        mounts.remove(last);
        Ok(())
    }
}

struct Bench {
    temp: TempDir,
    objects: Arc<FakeObjects>,
    mounter: Arc<FakeMounter>,
    volumes: Volumes,
}

impl Bench {
    fn new(objects: FakeObjects) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (objects, mounter) = (Arc::new(objects), Arc::new(FakeMounter::default()));
        let root = temp.path().canonicalize().unwrap().join("root");
        let volumes =
            Volumes::with_mounter(root, Arc::clone(&objects) as Arc<dyn Objects>, Arc::clone(&mounter) as _);
        Self { temp, objects, mounter, volumes }
    }

    fn pod_dir(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join("root/pods/u-1")
    }

    fn volume(&self, path: &str) -> PathBuf {
        self.pod_dir().join("volumes").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.volume(path)).unwrap()
    }
}

fn objects() -> FakeObjects {
    let objects = FakeObjects::default();
    // "AQI=" is 1, 2; "czNjcmV0" is s3cret.
    objects.put("configmap/shop/c", json!({"data": {"a": "one", "b": "two"}, "binaryData": {"bin": "AQI="}}));
    objects.put("secret/shop/s", json!({"data": {"pass": "czNjcmV0"}}));
    objects.put("configmap/shop/kube-root-ca.crt", json!({"data": {"ca.crt": "CA"}}));
    objects.put(
        "token/shop/robot",
        json!({"spec": {"audiences": [], "expirationSeconds": 3607},
               "status": {"token": "tok", "expirationTimestamp": "2026-01-01T01:00:07Z"}}),
    );
    objects
}

fn pod(volumes: Value, container: Value) -> Pod {
    let mut container = container;
    container["name"] = json!("app");
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"tier": "front"}},
        "spec": {"serviceAccountName": "robot", "volumes": volumes, "containers": [container]}
    }))
    .unwrap()
}

fn with_volumes(volumes: Value) -> Pod {
    pod(volumes, json!({}))
}

fn facts() -> PodFacts {
    PodFacts { pod_ips: vec!["10.1.0.4".parse().unwrap()], ..PodFacts::default() }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn every_type_has_its_place_content_and_mode() {
    let bench = Bench::new(objects());
    let pod = with_volumes(json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "cm", "configMap": {"name": "c", "defaultMode": 0o640}},
        {"name": "items", "configMap": {"name": "c", "items": [{"key": "a", "path": "d/e", "mode": 0o400}]}},
        {"name": "none", "configMap": {"name": "x", "optional": true}},
        {"name": "secret", "secret": {"secretName": "s", "items": [{"key": "pass", "path": "p"}]}},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "app", "resource": "requests.cpu"}}]}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "x", "optional": true}}]}}
    ]));
    let prepared = bench.volumes.prepare(&pod, &facts()).await.unwrap();
    assert!(prepared.changed);
    assert_eq!(prepared.renew_at.unwrap().to_string(), "2026-01-01T00:48:06Z");
    let check = |path: &str, text: &str, expected: u32| {
        assert_eq!((bench.read(path).as_str(), mode(&bench.volume(path))), (text, expected), "{path}");
    };
    check("kubernetes.io~configmap/cm/a", "one", 0o640);
    check("kubernetes.io~configmap/cm/bin", "\u{1}\u{2}", 0o640);
    check("kubernetes.io~configmap/items/d/e", "one", 0o400);
    check("kubernetes.io~secret/secret/p", "s3cret", 0o644);
    check("kubernetes.io~downward-api/down/labels", "tier=\"front\"", 0o644);
    check("kubernetes.io~downward-api/down/cpu", "0", 0o644);
    check("kubernetes.io~projected/all/token", "tok", 0o644);
    check("kubernetes.io~projected/all/ca.crt", "CA", 0o644);
    check("kubernetes.io~projected/all/namespace", "shop", 0o644);
    assert_eq!(mode(&bench.volume("kubernetes.io~empty-dir/disk")), 0o777);
    assert_eq!(mode(&bench.pod_dir()), 0o750);
    assert!(bench.volume("kubernetes.io~configmap/none").is_dir());
    let mounted: Vec<String> = bench
        .mounter
        .paths()
        .iter()
        .map(|path| path.strip_prefix(bench.volume("")).unwrap().display().to_string())
        .collect();
    assert_eq!(
        mounted,
        [
            "kubernetes.io~empty-dir/memory",
            "kubernetes.io~secret/secret",
            "kubernetes.io~downward-api/down",
            "kubernetes.io~projected/all"
        ]
    );
    assert_eq!(bench.mounter.sizes.lock().unwrap()[0], Some(1 << 20));
    let asked = bench.objects.asked.lock().unwrap()[0].spec.clone().unwrap();
    let bound = asked.bound_object_ref.unwrap();
    assert_eq!(
        (bound.kind.as_deref(), bound.name.as_deref(), bound.uid.as_deref(), asked.expiration_seconds),
        (Some("Pod"), Some("web"), Some("u-1"), Some(3607))
    );

    fs::write(bench.volume("kubernetes.io~empty-dir/disk/kept"), "x").unwrap();
    assert!(!bench.volumes.prepare(&pod, &facts()).await.unwrap().changed, "nothing to do the second time");
    assert_eq!(bench.read("kubernetes.io~empty-dir/disk/kept"), "x");
    assert_eq!(bench.mounter.paths().len(), 4);
}

#[tokio::test]
async fn files_follow_objects_and_keep_what_it_cannot_replace() {
    let bench = Bench::new(objects());
    let pod = with_volumes(json!([
        {"name": "gone", "configMap": {"name": "c"}},
        {"name": "cm", "configMap": {"name": "kube-root-ca.crt"}},
        {"name": "path", "hostPath": {"path": bench.temp.path().join("made"), "type": "DirectoryOrCreate"}}
    ]));
    bench.volumes.prepare(&pod, &facts()).await.unwrap();
    assert!(!bench.volumes.prepare(&pod, &facts()).await.unwrap().changed);
    bench.objects.put("configmap/shop/kube-root-ca.crt", json!({"data": {"new": "NEW"}}));
    assert!(bench.volumes.prepare(&pod, &facts()).await.unwrap().changed);
    assert_eq!(bench.read("kubernetes.io~configmap/cm/new"), "NEW");
    assert!(!bench.volume("kubernetes.io~configmap/cm/ca.crt").exists());

    bench.objects.remove("configmap/shop/c");
    bench.objects.put("configmap/shop/kube-root-ca.crt", json!({"data": {"new": "NEWER"}}));
    let error = bench.volumes.prepare(&pod, &facts()).await.unwrap_err();
    assert_eq!(error.to_string(), "MountVolume.SetUp failed for volume \"gone\" : configmap \"c\" not found");
    assert_eq!(bench.read("kubernetes.io~configmap/gone/a"), "one");
    assert_eq!(bench.read("kubernetes.io~configmap/cm/new"), "NEWER");
}

#[tokio::test]
async fn an_optional_source_out_of_reach_leaves_what_is_there() {
    let bench = Bench::new(objects());
    let pod = with_volumes(json!([{"name": "cm", "configMap": {"name": "c", "optional": true}}]));
    bench.volumes.prepare(&pod, &facts()).await.unwrap();
    bench.objects.remove("configmap/shop/c");
    bench.objects.offline.store(true, Ordering::Relaxed);
    assert!(!bench.volumes.prepare(&pod, &facts()).await.unwrap().changed);
    assert_eq!(bench.read("kubernetes.io~configmap/cm/a"), "one");

    fs::remove_dir_all(bench.volume("")).unwrap();
    bench.volumes.prepare(&pod, &facts()).await.unwrap();
    assert!(!bench.volume("kubernetes.io~configmap/cm/a").exists(), "and starts a new pod without it");

    bench.objects.put("configmap/shop/c", json!({"data": {"a": "back"}}));
    assert!(bench.volumes.prepare(&pod, &facts()).await.unwrap().changed);
    bench.objects.remove("configmap/shop/c");
    bench.objects.offline.store(false, Ordering::Relaxed);
    assert!(bench.volumes.prepare(&pod, &facts()).await.unwrap().changed, "gone for sure");
    assert!(!bench.volume("kubernetes.io~configmap/cm/a").exists());
}

#[tokio::test]
async fn errors_in_kubernetes_words() {
    let check = async |volume: Value, offline: bool, expected: &str| {
        let bench = Bench::new(FakeObjects { offline: offline.into(), ..objects() });
        let mut volume = volume;
        volume["name"] = json!("v");
        let error = bench.volumes.prepare(&with_volumes(json!([volume])), &facts()).await.unwrap_err();
        let text = error.to_string();
        let text = text.strip_prefix("MountVolume.SetUp failed for volume \"v\" : ").unwrap_or(&text);
        assert_eq!(text, expected, "{volume}");
    };
    check(json!({"configMap": {"name": "x"}}), false, "configmap \"x\" not found").await;
    check(json!({"secret": {"secretName": "x"}}), false, "secret \"x\" not found").await;
    check(
        json!({"secret": {"secretName": "x"}}),
        true,
        "secret \"x\" is not on this node and the cloud is not reachable",
    )
    .await;
    let items = json!([{"key": "k", "path": "p"}]);
    check(
        json!({"configMap": {"name": "c", "items": items}}),
        false,
        "configmap references non-existent config key: k",
    )
    .await;
    check(
        json!({"secret": {"secretName": "s", "items": items}}),
        false,
        "references non-existent secret key: k",
    )
    .await;
    for path in ["../p", "/p", "a/../../p", "..data", ""] {
        let items = json!([{"key": "a", "path": path}]);
        let expected = format!("invalid path {path:?}");
        check(json!({"configMap": {"name": "c", "items": items}}), false, &expected).await;
    }
    let unsupported =
        |kind: &str| format!("volume \"v\" is of type {kind}, which this node does not support");
    let claim = json!({"persistentVolumeClaim": {"claimName": "x"}});
    check(claim, false, &unsupported("persistentVolumeClaim")).await;
    check(json!({"nfs": {"path": "/", "server": "x"}}), false, &unsupported("nfs")).await;
    check(
        json!({"emptyDir": {"medium": "HugePages"}}),
        false,
        &unsupported("emptyDir with medium HugePages"),
    )
    .await;
    let bundle = json!({"projected": {"sources": [{"clusterTrustBundle": {"name": "x", "path": "p"}}]}});
    check(bundle, false, &unsupported("projected clusterTrustBundle")).await;
    check(
        json!({"hostPath": {"path": "/dev/null", "type": "Directory"}}),
        false,
        "hostPath type check failed: /dev/null is not a directory",
    )
    .await;
}

/// Whoever runs the test is in its own group, so this needs no root.
#[tokio::test]
async fn the_pods_group_may_use_its_volumes() {
    let bench = Bench::new(objects());
    let group = rustix::process::getgid().as_raw();
    let mut pod = with_volumes(json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "cm", "configMap": {"name": "c", "defaultMode": 0o400}},
        {"name": "all", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    ]));
    pod.spec.as_mut().unwrap().security_context =
        Some(serde_json::from_value(json!({"fsGroup": group})).unwrap());
    bench.volumes.prepare(&pod, &facts()).await.unwrap();
    let check = |path: &str, expected: u32| assert_eq!(mode(&bench.volume(path)), expected, "{path}");
    check("kubernetes.io~empty-dir/disk", 0o2777);
    check("kubernetes.io~configmap/cm", 0o2777);
    check("kubernetes.io~configmap/cm/..data", 0o2755);
    check("kubernetes.io~configmap/cm/a", 0o440);
    check("kubernetes.io~projected/all/token", 0o640);
    assert!(!bench.volumes.prepare(&pod, &facts()).await.unwrap().changed);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn mounts_of_a_container() {
    let bench = Bench::new(objects());
    let pod = pod(
        json!([{"name": "disk", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "c"}},
               {"name": "path", "hostPath": {"path": "/dev"}}]),
        json!({"volumeMounts": [
            {"name": "disk", "mountPath": "/data"},
            {"name": "cm", "mountPath": "/etc/app", "readOnly": false},
            {"name": "path", "mountPath": "host", "readOnly": true, "mountPropagation": "HostToContainer"},
            {"name": "cm", "mountPath": "/one", "subPath": "a"},
            {"name": "disk", "mountPath": "/mine", "subPathExpr": "$(WHO)/x"}
        ]}),
    );
    bench.volumes.prepare(&pod, &facts()).await.unwrap();
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let env = [("WHO".to_owned(), "me".to_owned())];
    let mounts = bench.volumes.mounts(&pod, container, &env, &facts()).await.unwrap();
    let dir = format!("{}/", bench.pod_dir().display());
    let found: Vec<_> = mounts
        .iter()
        .map(|m| {
            (m.container_path.as_str(), m.host_path.strip_prefix(&dir).unwrap_or(&m.host_path), m.readonly)
        })
        .collect();
    let message = found.last().unwrap();
    assert!(message.0 == "/dev/termination-log" && message.1.starts_with("containers/app/") && !message.2);
    assert_eq!(mode(Path::new(&mounts.last().unwrap().host_path)), 0o666);
    assert_eq!(
        found[..6],
        [
            ("/data", "volumes/kubernetes.io~empty-dir/disk", false),
            ("/etc/app", "volumes/kubernetes.io~configmap/cm", true),
            ("/host", "/dev", true),
            ("/one", "volume-subpaths/cm/app/3", true),
            ("/mine", "volume-subpaths/disk/app/4", false),
            ("/etc/hosts", "etc-hosts", false),
        ]
    );
    assert_eq!(mounts[2].propagation(), MountPropagation::PropagationHostToContainer);
    let bound = bench.mounter.bound.lock().unwrap().clone();
    assert_eq!(
        bound[0].parent(),
        Some(bench.volume("kubernetes.io~configmap/cm/..data").canonicalize().unwrap().as_path())
    );
    assert_eq!(bound[1], bench.volume("kubernetes.io~empty-dir/disk/me/x"));
    let hosts = fs::read_to_string(bench.pod_dir().join("etc-hosts")).unwrap();
    assert!(hosts.ends_with("10.1.0.4\tweb\n"), "{hosts}");

    for _ in 0..20 {
        bench.volumes.mounts(&pod, container, &env, &facts()).await.unwrap();
    }
    assert!(names(&bench.pod_dir().join("containers/app")).len() <= 9);
    assert_eq!(bench.mounter.paths().len(), 2, "mounts do not pile up");
}

#[tokio::test]
async fn mounts_that_are_refused() {
    let check = async |mount: Value, expected: &str| {
        let bench = Bench::new(objects());
        let mut mount = mount;
        mount["mountPath"] = json!("/m");
        let pod = pod(json!([{"name": "v", "emptyDir": {}}]), json!({"volumeMounts": [mount]}));
        bench.volumes.prepare(&pod, &facts()).await.unwrap();
        symlink("/etc", bench.volume("kubernetes.io~empty-dir/v/out")).unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let env = [("EMPTY".to_owned(), String::new()), ("UP".to_owned(), "../s3cret".to_owned())];
        let error = bench.volumes.mounts(&pod, container, &env, &facts()).await.unwrap_err();
        assert_eq!(error.to_string(), expected, "{mount}");
    };
    check(json!({"name": "w"}), "cannot find volume \"w\" to mount into container \"app\"").await;
    check(
        json!({"name": "v", "subPath": "out/passwd"}),
        "failed to prepare subPath for volumeMount \"v\" of container \"app\": subPath leads out of the volume",
    )
    .await;
    check(
        json!({"name": "v", "subPath": "/a"}),
        "error SubPath of volumeMount \"v\" must not be an absolute path",
    )
    .await;
    check(
        json!({"name": "v", "subPathExpr": "$(UP)"}),
        "unable to provision SubPath of volumeMount \"v\": must not contain '..'",
    )
    .await;
    check(json!({"name": "v", "subPathExpr": "a/$(EMPTY)"}), "missing value for \"EMPTY\"").await;
    check(json!({"name": "v", "subPathExpr": "$(NONE)"}), "missing value for \"NONE\"").await;
    check(json!({"name": "v", "mountPropagation": "Up"}), "invalid MountPropagation mode: \"Up\"").await;
}

#[tokio::test]
async fn a_dead_pod_leaves_nothing_and_takes_nothing_along() {
    let bench = Bench::new(objects());
    let uid: Uid = "u-1".parse().unwrap();
    bench.volumes.tear_down(&uid).await.unwrap();
    let pod = with_volumes(json!([
        {"name": "disk", "emptyDir": {}}, {"name": "secret", "secret": {"secretName": "s"}}
    ]));
    bench.volumes.prepare(&pod, &facts()).await.unwrap();
    assert_eq!(bench.volumes.on_disk().await.unwrap(), std::slice::from_ref(&uid));
    let disk = bench.volume("kubernetes.io~empty-dir/disk");
    let outside = bench.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    symlink(&outside, disk.join("link")).unwrap();
    symlink(outside.join("kept"), disk.join("file")).unwrap();
    fs::create_dir_all(disk.join(".removing/7")).unwrap();
    // What a container may leave, and an earlier call that was killed.
    let mut deep = disk.clone();
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(bench.pod_dir().join(".removing/3/x")).unwrap();
    // Two mounts on top of each other.
    bench.mounter.add(&disk);
    bench.mounter.add(&disk);

    bench.mounter.refuses.store(true, Ordering::Relaxed);
    let error = bench.volumes.tear_down(&uid).await.unwrap_err().to_string();
    assert!(error.contains("unmount"), "{error}");
    assert!(disk.join("link").is_symlink(), "nothing is deleted while a mount is there");

    bench.mounter.refuses.store(false, Ordering::Relaxed);
    bench.volumes.tear_down(&uid).await.unwrap();
    assert!(!bench.pod_dir().exists());
    assert!(bench.mounter.paths().is_empty());
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "x");
    assert!(bench.volumes.on_disk().await.unwrap().is_empty());
    bench.volumes.tear_down(&uid).await.unwrap();
}

#[tokio::test]
async fn names_lead_nowhere_else() {
    let bench = Bench::new(objects());
    let check = async |uid: &str, volume: &str| {
        let mut pod = with_volumes(json!([{"name": volume, "emptyDir": {}}]));
        pod.metadata.uid = Some(uid.to_owned());
        assert!(bench.volumes.prepare(&pod, &facts()).await.is_err(), "{uid} {volume}");
    };
    check("..", "v").await;
    check("", "v").await;
    check("a/b", "v").await;
    check("u-1", "..").await;
    check("u-1", "../../x").await;
    assert!(bench.volumes.tear_down(&"..".parse().unwrap()).await.is_err());
}
