//! Plain workers, and actors that run one call at a time: everything on the main thread.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict};
use ray_rs_core_worker::{ActorStart, ExecTask, LeaseTerms, Next, ReadValue};

use super::title::Title;
use super::{Executor, Exit, Hosted, asyncio, exit_of, threaded};
use crate::args::{self, BadArgs};
use crate::ids::{PyActorId, PyJobId};
use crate::{control, gil, pickle, reftable};

pub fn run(py: Python<'_>, executor: &Arc<Executor>) -> PyResult<Exit> {
    let core = &executor.core;
    let mut appearance = Appearance::new();
    loop {
        let next = match core.try_next_task() {
            Some(next) => next,
            None => appearance.wait(py, executor)?,
        };
        let exit = match next {
            Next::Task(task) => {
                appearance.follow(py, executor, &task)?;
                executor.run(py, task)
            }
            Next::StartActor(start) => {
                let (is_async, max_concurrency) = (start.is_async, start.max_concurrency as usize);
                let groups = start.groups.clone();
                let idle = format!("ray::{}", start.class_name);
                appearance.title.show(&format!("{idle}.__init__()"));
                if is_async {
                    let engine = asyncio::make(py, executor, max_concurrency, &groups)?;
                    let started = asyncio::construct(&engine, *start)?;
                    appearance.title.set_idle(idle);
                    return match started {
                        Started::Failed => wait_for_the_end(py, executor),
                        Started::Running => asyncio::run(&engine),
                    };
                }
                let started = executor.start_actor(py, *start);
                appearance.title.set_idle(idle);
                match started {
                    Started::Failed => return wait_for_the_end(py, executor),
                    Started::Running if max_concurrency > 1 || !groups.is_empty() => {
                        return threaded::run(py, executor, max_concurrency, &groups);
                    }
                    Started::Running => None,
                }
            }
            Next::Checkpoint => executor.take_checkpoint(py),
            other => exit_of(other),
        };
        if let Some(exit) = exit {
            if exit.graceful {
                executor.settle_calls(py);
            }
            return Ok(exit);
        }
    }
}

/// A process is called idle after so long without work: whoever waits for the next task of a stream pays nothing for it.
const IDLE: Duration = Duration::from_millis(20);

/// What a process shows of the task that it runs, in its title and its environment.
struct Appearance {
    title: Title,
    lease: Arc<LeaseTerms>,
    cpus: Option<f64>,
}

impl Appearance {
    fn new() -> Self {
        Self {
            title: Title::new("ray::IDLE"),
            lease: Arc::default(),
            cpus: None,
        }
    }

    fn wait(&mut self, py: Python<'_>, executor: &Executor) -> PyResult<Next> {
        if !self.title.is_idle() {
            match gil::wait(py, |interrupt| executor.core.next_task(Some(IDLE), interrupt))? {
                Next::Nothing => self.title.show_idle(),
                next => return Ok(next),
            }
        }
        gil::wait(py, |interrupt| executor.core.next_task(None, interrupt))
    }

    fn follow(&mut self, py: Python<'_>, executor: &Executor, task: &ExecTask) -> PyResult<()> {
        self.title.show_call(&task.callee);
        if Arc::ptr_eq(&self.lease, &task.lease) || executor.hosted.get().is_some() {
            return Ok(());
        }
        self.lease = Arc::clone(&task.lease);
        let cpus = task.lease.resources.get("CPU").to_f64();
        if self.cpus.replace(cpus) != Some(cpus) {
            executor.callbacks.set_cpus.call1(py, (cpus,))?;
        }
        Ok(())
    }
}

/// After a constructor has failed: the control store orders the end. Calls that are here already stay unanswered, so that
/// their callers learn the reason from it too.
fn wait_for_the_end(py: Python<'_>, executor: &Executor) -> PyResult<Exit> {
    let mut unanswered = Vec::new();
    loop {
        match gil::wait(py, |interrupt| executor.core.next_task(None, interrupt))? {
            Next::Task(task) => unanswered.push(task),
            other => {
                if let Some(exit) = exit_of(other) {
                    return Ok(exit);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    Running,
    Failed,
}

impl Executor {
    pub fn start_actor(&self, py: Python<'_>, start: ActorStart) -> Started {
        let class_name = start.class_name.clone();
        let error = match self.construct(py, start) {
            Ok(()) => {
                py.detach(|| self.core.actor_started(None, String::new()));
                return Started::Running;
            }
            Err(error) => error,
        };
        let (error, from_argument) = match error {
            BadArgs::Dependency(error) => (error, true),
            BadArgs::Own(error) => (error, false),
        };
        let message = error.to_string();
        let name = format!("{class_name}.__init__");
        // Nobody counts references inside it: it goes to the control store.
        let made = reftable::collecting(&self.core, || self.error_bytes(py, &name, error, from_argument));
        let bytes = made.map(|(bytes, refs)| {
            reftable::drop_all(&self.core, refs);
            bytes
        });
        let bytes = bytes.unwrap_or_default();
        let told = self
            .callbacks
            .say_creation_failed
            .call1(py, (&class_name, PyBytes::new(py, &bytes)));
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
        py.detach(|| self.core.actor_started(Some(bytes), message));
        Started::Failed
    }

    fn construct(&self, py: Python<'_>, mut start: ActorStart) -> Result<(), BadArgs> {
        let hosted = self.hosted.get_or_init(|| Hosted {
            actor_id: start.actor_id,
            descriptor: start.handle_descriptor.clone(),
            resources: start.resources.clone(),
            captures_children: start.captures_children,
            instance: PyOnceLock::new(),
        });
        if start.captures_children {
            super::context::now_captures();
        }
        let info = actor_info(py, &start).map_err(BadArgs::Own)?;
        if let Some(durability) = start.durability {
            return self.construct_durable(py, start, durability, &info);
        }
        let call = args::decode(
            py,
            &self.core,
            std::mem::replace(&mut start.args, ReadValue::empty()),
            &start.layout,
            &start.kwarg_names,
            std::mem::take(&mut start.deps),
            &start.dep_refs,
        );
        let (args, kwargs) = call?;
        let kwargs = kwargs.unwrap_or_else(|| PyDict::new(py));
        let instance = || -> PyResult<Py<PyAny>> {
            let class = self.load_class(py, &start)?;
            self.callbacks.start_actor.call1(py, (class, args, kwargs, info))
        };
        let instance = instance().map_err(BadArgs::Own)?;
        let _ = hosted.instance.set(py, instance);
        Ok(())
    }
}

impl Executor {
    /// The actor's class, with its GPUs to be seen.
    pub fn load_class<'py>(&self, py: Python<'py>, start: &ActorStart) -> PyResult<Bound<'py, PyAny>> {
        let class = if start.definition.is_empty() {
            let blob = gil::wait_for(py, |interrupt| self.core.fetch_blob(start.class_id, interrupt))?;
            pickle::loads(py, &blob)?
        } else {
            pickle::loads(py, &start.definition)?
        };
        if !start.gpu_ids.is_empty() {
            self.callbacks.set_gpus.call1(py, (start.gpu_ids.clone(),))?;
        }
        Ok(class)
    }
}

fn actor_info<'py>(py: Python<'py>, start: &ActorStart) -> PyResult<Bound<'py, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("actor_id", PyActorId(start.actor_id))?;
    info.set_item("class_name", &start.class_name)?;
    info.set_item("name", &start.name)?;
    info.set_item("namespace", &start.namespace)?;
    info.set_item("incarnation", start.incarnation)?;
    info.set_item("max_concurrency", start.max_concurrency)?;
    info.set_item("is_async", start.is_async)?;
    info.set_item("gpu_ids", start.gpu_ids.clone())?;
    info.set_item("resources", control::resource_dict(py, &start.resources)?)?;
    info.set_item("job_id", PyJobId(start.job_id))?;
    info.set_item("extra", PyBytes::new(py, &start.extra))?;
    Ok(info)
}
