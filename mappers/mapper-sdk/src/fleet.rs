//! Every device that the edge node gave this mapper, and the tasks that drive them.
//!
//! It joins devices with their models, starts a task for each, tells it when its description changes and ends it when it
//! goes. It never touches a device itself. `link.rs` brings the news, `rest.rs` asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ke_dmi::v1beta1 as dmi;
use ke_run::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::carrier::Reports;
use crate::counters::Counters;
use crate::device::DeviceTask;
use crate::driver::{DeviceName, Driver};
use crate::link::Edge;
use crate::manifest::{self, Description};
use crate::news::{Found, News, Wish};
use crate::push::Targets;

/// A driver that panicked rests this long: the device is driven on, and the log is not flooded.
const AFTER_PANIC: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Device(DeviceName),
    Model(DeviceName),
}

/// The module.
pub(crate) struct Fleet<D> {
    driver: Arc<D>,
    edge: Edge,
    targets: Arc<Targets>,
    counters: Counters,
    call_limit: Duration,
    news: mpsc::Receiver<News>,
    devices: BTreeMap<DeviceName, dmi::Device>,
    models: BTreeMap<DeviceName, Arc<dmi::DeviceModel>>,
    running: BTreeMap<DeviceName, Running>,
    tasks: JoinSet<()>,
    /// Changed since a registration began.
    touched: BTreeSet<Key>,
}

/// A device that is driven.
struct Running {
    /// What its description was made of.
    source: (dmi::Device, Arc<dmi::DeviceModel>),
    /// The newest description. Nothing waits: a later one replaces it.
    description: watch::Sender<Description>,
    wishes: mpsc::Sender<Wish>,
    task: AbortHandle,
    carrier: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.carrier.abort();
    }
}

impl<D: Driver> Fleet<D> {
    pub(crate) fn new(
        driver: Arc<D>,
        edge: Edge,
        targets: Targets,
        counters: Counters,
        call_limit: Duration,
        news: mpsc::Receiver<News>,
    ) -> Self {
        Self {
            driver,
            edge,
            targets: Arc::new(targets),
            counters,
            call_limit,
            news,
            devices: BTreeMap::new(),
            models: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            touched: BTreeSet::new(),
        }
    }

    pub(crate) async fn run(mut self, stop: Shutdown) -> Result<(), std::convert::Infallible> {
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(news) => {
                        self.on_news(news);
                        let n_devices = i64::try_from(self.running.len()).unwrap_or(i64::MAX);
                        self.counters.devices.set(n_devices);
                    }
                    None => return Ok(()),
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Err(error) = ended {
                        self.on_broken(error.id(), error.is_panic());
                    }
                }
                () = stop.wait() => return Ok(()),
            }
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Device(device) => {
                let name = manifest::name(&device.namespace, &device.name);
                self.touched.insert(Key::Device(name.clone()));
                self.devices.insert(name.clone(), *device);
                self.settle(&name);
            }
            News::DeviceGone(name) => {
                self.touched.insert(Key::Device(name.clone()));
                self.remove(&name);
            }
            News::Model(model) => {
                let name = manifest::name(&model.namespace, &model.name);
                self.touched.insert(Key::Model(name.clone()));
                self.put_model(name, model);
            }
            News::ModelGone(name) => {
                self.touched.insert(Key::Model(name.clone()));
                // Its devices go on: KubeEdge removes models before their devices at times.
                self.models.remove(&name);
            }
            News::Registering => self.touched.clear(),
            News::Registered(answer) => self.on_registered(answer),
            News::Find(name, reply) => {
                let found = self.running.get(&name).map(|running| Found {
                    device: Arc::clone(&running.description.borrow().device),
                    model: Arc::clone(&running.source.1),
                    wishes: running.wishes.clone(),
                });
                // Nobody waits for it any more: nothing is lost.
                let _ = reply.send(found);
            }
        }
    }

    fn on_registered(&mut self, answer: dmi::MapperRegisterResponse) {
        let touched = std::mem::take(&mut self.touched);
        let mut given = BTreeSet::new();
        for model in answer.model_list {
            let name = manifest::name(&model.namespace, &model.name);
            if !touched.contains(&Key::Model(name.clone())) {
                self.put_model(name, model);
            }
        }
        for device in answer.device_list {
            let name = manifest::name(&device.namespace, &device.name);
            given.insert(name.clone());
            if !touched.contains(&Key::Device(name.clone())) {
                self.devices.insert(name.clone(), device);
                self.settle(&name);
            }
        }
        let is_gone =
            |name: &&DeviceName| !given.contains(*name) && !touched.contains(&Key::Device((*name).clone()));
        let gone: Vec<DeviceName> = self.devices.keys().filter(is_gone).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }

    fn put_model(&mut self, name: DeviceName, model: dmi::DeviceModel) {
        if self.models.get(&name).is_some_and(|held| **held == model) {
            return;
        }
        self.models.insert(name.clone(), Arc::new(model));
        let uses = |(_, device): &(&DeviceName, &dmi::Device)| manifest::model_of(device) == name;
        let users: Vec<DeviceName> = self.devices.iter().filter(uses).map(|(user, _)| user.clone()).collect();
        for user in users {
            self.settle(&user);
        }
    }

    fn remove(&mut self, name: &DeviceName) {
        self.devices.remove(name);
        if self.running.remove(name).is_some() {
            tracing::info!(device = %name, "no longer driven");
        }
    }

    /// Makes what runs equal to what is described.
    fn settle(&mut self, name: &DeviceName) {
        let Some(message) = self.devices.get(name) else { return };
        let model = manifest::model_of(message);
        let Some(model) = self.models.get(&model) else {
            tracing::warn!(device = %name, %model, "the device waits for its model, which does not exist yet");
            return;
        };
        let source = (message.clone(), Arc::clone(model));
        if self.running.get(name).is_some_and(|running| running.source == source) {
            return;
        }
        let (description, remarks) = manifest::device(&source.0, &source.1);
        for remark in remarks {
            tracing::warn!(device = %name, "{remark}");
        }
        match self.running.get_mut(name) {
            Some(running) => {
                running.source = source;
                running.description.send_replace(description);
            }
            None => {
                tracing::info!(device = %name, n_properties = description.device.properties.len(), "driven from now on");
                self.start(source, description, Duration::ZERO);
            }
        }
    }

    fn start(
        &mut self,
        source: (dmi::Device, Arc<dmi::DeviceModel>),
        description: Description,
        rest: Duration,
    ) {
        let name = description.device.name.clone();
        let (description, descriptions) = watch::channel(description);
        // Full: whoever asks over REST waits.
        let (wishes, asked) = mpsc::channel(8);
        let reports = Reports::new(&self.edge, self.counters.clone());
        let task = DeviceTask::new(
            Arc::clone(&self.driver),
            self.call_limit,
            descriptions,
            asked,
            reports.clone(),
            Arc::clone(&self.targets),
            self.counters.clone(),
        );
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            task.run().await;
        });
        let carrier = self.tasks.spawn(reports.carry(name.clone(), self.edge.clone()));
        self.running.insert(name, Running { source, description, wishes, task, carrier });
    }

    /// A task did not end by itself.
    fn on_broken(&mut self, id: Id, is_panic: bool) {
        let is_it = |running: &Running| running.task.id() == id || running.carrier.id() == id;
        let Some(name) =
            self.running.iter().find(|(_, running)| is_it(running)).map(|(name, _)| name.clone())
        else {
            return;
        };
        let Some(running) = self.running.remove(&name) else { return };
        if is_panic {
            tracing::error!(device = %name, "the driver panicked; the device is driven anew after a rest");
        }
        let description = running.description.borrow().clone();
        self.start(running.source.clone(), description, AFTER_PANIC);
    }
}
