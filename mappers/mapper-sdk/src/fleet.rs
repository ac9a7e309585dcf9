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

/// A task that panicked rests this long: the device is driven on, and the log is not flooded.
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
    /// Changed since a registration began, while one is under way.
    touched: Option<BTreeSet<Key>>,
}

/// A device that is driven.
struct Running {
    /// What its description was made of.
    source: (dmi::Device, Arc<dmi::DeviceModel>),
    /// The newest description. Nothing waits: a later one replaces it.
    description: watch::Sender<Description>,
    wishes: mpsc::Sender<Wish>,
    /// What waits for the edge node. It outlives both tasks.
    reports: Reports,
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
            touched: None,
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
                        self.on_broken(error.id());
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
                self.touch(Key::Device(name.clone()));
                self.devices.insert(name.clone(), *device);
                self.settle(&name);
            }
            News::DeviceGone(name) => {
                self.touch(Key::Device(name.clone()));
                self.remove(&name);
            }
            News::Model(model) => {
                let name = manifest::name(&model.namespace, &model.name);
                self.touch(Key::Model(name.clone()));
                self.put_model(name, model);
            }
            News::ModelGone(name) => {
                self.touch(Key::Model(name.clone()));
                // Its devices go on: KubeEdge removes models before their devices at times.
                self.models.remove(&name);
            }
            News::Registering => self.touched = Some(BTreeSet::new()),
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

    fn touch(&mut self, key: Key) {
        if let Some(touched) = &mut self.touched {
            touched.insert(key);
        }
    }

    fn on_registered(&mut self, answer: dmi::MapperRegisterResponse) {
        let touched = self.touched.take().unwrap_or_default();
        let (mut given, mut models) = (BTreeSet::new(), BTreeSet::new());
        for model in answer.model_list {
            let name = manifest::name(&model.namespace, &model.name);
            models.insert(name.clone());
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
        // Those of devices that are there stay whatever the answer says.
        models.extend(self.devices.values().map(manifest::model_of));
        self.models.retain(|name, _| models.contains(name) || touched.contains(&Key::Model(name.clone())));
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
                self.start(source, description);
            }
        }
    }

    fn start(&mut self, source: (dmi::Device, Arc<dmi::DeviceModel>), description: Description) {
        let name = description.device.name.clone();
        let reports = Reports::new(&self.edge, self.counters.clone());
        let (description, descriptions) = watch::channel(description);
        let (wishes, task) = self.drive(descriptions, reports.clone(), Duration::ZERO);
        let carrier = self.carry(&name, &reports, Duration::ZERO);
        self.running.insert(name, Running { source, description, wishes, reports, task, carrier });
    }

    /// Starts the task that drives a device, after a rest.
    fn drive(
        &mut self,
        descriptions: watch::Receiver<Description>,
        reports: Reports,
        rest: Duration,
    ) -> (mpsc::Sender<Wish>, AbortHandle) {
        // Full: whoever asks over REST waits.
        let (wishes, asked) = mpsc::channel(8);
        let task = DeviceTask::new(
            Arc::clone(&self.driver),
            self.call_limit,
            descriptions,
            asked,
            reports,
            Arc::clone(&self.targets),
            self.counters.clone(),
        );
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            task.run().await;
        });
        (wishes, task)
    }

    /// Starts the task that takes a device's reports to the edge node, after a rest.
    fn carry(&mut self, name: &DeviceName, reports: &Reports, rest: Duration) -> AbortHandle {
        let (reports, name, edge) = (reports.clone(), name.clone(), self.edge.clone());
        self.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            reports.carry(name, edge).await;
        })
    }

    /// A task did not end by itself: it is started again, and the other one of its device goes on. What waits for the edge node
    /// stays.
    fn on_broken(&mut self, id: Id) {
        let is_it = |running: &Running| running.task.id() == id || running.carrier.id() == id;
        let found = self.running.iter().find(|(_, running)| is_it(running));
        // Without: it was ended with its device.
        let Some((name, running)) = found else { return };
        let (name, reports) = (name.clone(), running.reports.clone());
        if running.carrier.id() == id {
            tracing::error!(device = %name, "the task that carries reports panicked and is started anew after a rest");
            let carrier = self.carry(&name, &reports, AFTER_PANIC);
            if let Some(running) = self.running.get_mut(&name) {
                running.carrier = carrier;
            }
        } else {
            tracing::error!(device = %name, "the driver panicked; the device is driven anew after a rest");
            let (wishes, task) = self.drive(running.description.subscribe(), reports, AFTER_PANIC);
            if let Some(running) = self.running.get_mut(&name) {
                (running.wishes, running.task) = (wishes, task);
            }
        }
    }
}

#[cfg(test)]
mod tests;
