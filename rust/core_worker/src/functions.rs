//! Functions and methods with their options, and the classes of what tasks ask for: registered, and given up when neither
//! the program nor a task needs them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ray_rs_dispatch::{ClassKey, FunctionKey};
use ray_rs_proto::v1;
use ray_rs_types::{NodeId, ResourceSet};
use rustc_hash::FxHashSet;

use crate::model::{FunctionIndex, FunctionSpec, MethodIndex, MethodSpec};
use crate::state::State;
use crate::submit::Work;

/// What the raylet is asked for: tasks that ask for the same share their leases.
#[derive(Debug, PartialEq)]
pub(crate) struct Class {
    pub resources: ResourceSet,
    pub runtime_env: Arc<str>,
    pub strategy: Option<v1::SchedulingStrategy>,
    /// The node with so much more of the arguments than this one that it should run there. Tasks of one function may be of
    /// several classes for it.
    pub near: Option<NodeId>,
}

impl Hash for Class {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What tells most of them apart.
        (&self.resources, &self.runtime_env, self.near).hash(state);
    }
}

impl State {
    pub fn function(&self, index: FunctionIndex) -> &Arc<FunctionSpec> {
        let (spec, _) = self.functions.get(index.0).expect("who has the index uses it");
        spec
    }

    pub fn method(&self, index: MethodIndex) -> &Arc<MethodSpec> {
        self.methods.get(index.0).expect("who has the index uses it")
    }

    /// The class of its tasks, unless their arguments say otherwise.
    pub fn usual_class(&self, index: FunctionIndex) -> u32 {
        self.functions.get(index.0).map_or(0, |(_, class)| *class)
    }

    /// `None`: nothing of that class is waited for or held any more.
    pub fn class(&self, ClassKey(index): ClassKey) -> Option<&Class> {
        self.classes.get(index)
    }

    /// The index is the caller's until it says [`crate::CoreWorker::drop_function`].
    pub fn register_function(&mut self, spec: FunctionSpec) -> FunctionIndex {
        if self.functions.should_sweep() || self.classes.should_sweep() {
            self.forget_unused_functions();
        }
        let class = self.class_like(Class {
            resources: spec.resources.clone(),
            runtime_env: Arc::clone(&spec.runtime_env),
            strategy: spec.strategy.clone(),
            near: None,
        });
        FunctionIndex(self.functions.use_or_add((Arc::new(spec), class)))
    }

    /// The index is the caller's until it says [`crate::CoreWorker::drop_method`].
    pub fn register_method(&mut self, spec: MethodSpec) -> MethodIndex {
        if self.methods.should_sweep() {
            self.forget_unused_methods();
        }
        MethodIndex(self.methods.use_or_add(Arc::new(spec)))
    }

    pub fn class_like(&mut self, wanted: Class) -> u32 {
        self.classes.place_of(wanted)
    }

    /// A task that has not ended, or may run again, needs its function; a lease, and whoever asks for one, its class.
    fn forget_unused_functions(&mut self) {
        let functions = self.owner.specs().filter_map(|spec| match spec.work {
            Work::Normal(function) => Some(function.0),
            Work::Call { .. } | Work::Creation(_) | Work::Group => None,
        });
        let needed: FxHashSet<u32> = functions.collect();
        for index in self.functions.sweep(|index, _| needed.contains(&index)) {
            self.dispatch.forget_function(FunctionKey(index));
            self.peers.undefine(FunctionIndex(index).on_lanes());
        }
        let needed: FxHashSet<u32> = self.functions.iter().map(|(_, class)| *class).collect();
        let dispatch = &self.dispatch;
        let freed = (self.classes).sweep(|index, _| needed.contains(&index) || !dispatch.is_unused(ClassKey(index)));
        for index in freed {
            self.dispatch.forget_class(ClassKey(index));
            self.remote.forget_refusals(ClassKey(index));
        }
    }

    /// A call that has not ended needs its method. One that was given up does not: the lane is told so, in order, before its
    /// number means another.
    fn forget_unused_methods(&mut self) {
        let methods = self.owner.specs().filter_map(|spec| match spec.work {
            Work::Call { method, .. } => Some(method.0),
            Work::Normal(_) | Work::Creation(_) | Work::Group => None,
        });
        let needed: FxHashSet<u32> = methods.collect();
        for index in self.methods.sweep(|index, _| needed.contains(&index)) {
            self.peers.undefine(MethodIndex(index).on_lanes());
        }
    }
}

/// Methods and functions share a lane's numbers; those of methods are told apart by the high bit.
const METHOD: u32 = 1 << 31;

impl FunctionIndex {
    /// What lanes know it by on this side.
    pub(crate) fn on_lanes(self) -> u32 {
        self.0
    }
}

impl MethodIndex {
    /// As of [`FunctionIndex`].
    pub(crate) fn on_lanes(self) -> u32 {
        self.0 | METHOD
    }
}
