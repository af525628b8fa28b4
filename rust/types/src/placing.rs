//! What a request or a placement group says of the nodes that it wants.

use crate::NodeId;

/// What a request says of where it is to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Strategy {
    #[default]
    Default,
    Spread,
    NodeAffinity {
        node: NodeId,
        /// Another node will do when this one is gone or could never serve it.
        soft: bool,
        /// With `soft`: another will do as well when this one is merely busy.
        spill_on_unavailable: bool,
        /// Without `soft`: it fails when this one is busy.
        fail_on_unavailable: bool,
    },
    NodeLabels {
        hard: Vec<LabelRule>,
        /// Met where that is possible.
        soft: Vec<LabelRule>,
    },
}

/// A request for a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placing {
    pub strategy: Strategy,
    /// `label_selector` and the fallbacks behind it: the first that some node could serve counts. Empty: any node.
    pub selectors: Vec<Vec<LabelRule>>,
}

/// What is asked of the value of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelTest {
    In(Vec<String>),
    /// Also met by a node without the label.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRule {
    pub key: String,
    pub test: LabelTest,
}

impl LabelRule {
    pub fn is(key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            test: LabelTest::In(vec![value.to_owned()]),
        }
    }

    /// Whether a node with this value of the label, or without it, will do.
    pub fn is_met_by(&self, value: Option<&String>) -> bool {
        match &self.test {
            LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelTest::Exists => value.is_some(),
            LabelTest::DoesNotExist => value.is_none(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupStrategy {
    /// As few nodes as possible.
    Pack,
    /// As many nodes as possible.
    Spread,
    /// One node, or nowhere.
    StrictPack,
    /// Each on a node of its own, or nowhere.
    StrictSpread,
}
