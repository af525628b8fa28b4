//! Rules on the labels of nodes.

use std::collections::BTreeMap;

use ray_rs_types::ResourceSet;
use ray_rs_types::placing::{LabelRule, LabelTest};

use super::NodeView;

/// Whether the node meets every one of the rules.
pub fn meets(view: &NodeView, rules: &[LabelRule]) -> bool {
    are_met(&view.labels, rules)
}

/// Whether a node with these labels would.
pub fn are_met(labels: &BTreeMap<String, String>, rules: &[LabelRule]) -> bool {
    rules.iter().all(|rule| rule.is_met_by(labels.get(&rule.key)))
}

/// The nodes of the first selector that some node could serve; all when there is no selector.
///
/// # Errors
/// Why there is none.
pub fn select<'a>(
    nodes: &'a [NodeView],
    selectors: &[Vec<LabelRule>],
    demand: &ResourceSet,
) -> Result<Vec<&'a NodeView>, String> {
    if selectors.is_empty() {
        return Ok(nodes.iter().collect());
    }
    for rules in selectors {
        let selected: Vec<&NodeView> = nodes.iter().filter(|view| meets(view, rules)).collect();
        if selected.iter().any(|view| view.is_feasible(demand)) {
            return Ok(selected);
        }
    }
    let labelled = nodes
        .iter()
        .any(|view| selectors.iter().any(|rules| meets(view, rules)));
    let asked: Vec<String> = selectors.iter().map(|rules| describe(rules)).collect();
    Err(if labelled {
        format!(
            "no node of this cluster has both the labels {} and {demand}",
            asked.join(" or ")
        )
    } else {
        format!("no node of this cluster has the labels {}", asked.join(" or "))
    })
}

/// The rules as a person would write them.
pub fn describe(rules: &[LabelRule]) -> String {
    let one = |rule: &LabelRule| match &rule.test {
        LabelTest::In(values) => format!("{}: in({})", rule.key, values.join(", ")),
        LabelTest::NotIn(values) => format!("{}: !in({})", rule.key, values.join(", ")),
        LabelTest::Exists => format!("{}: exists", rule.key),
        LabelTest::DoesNotExist => format!("{}: does not exist", rule.key),
    };
    let all: Vec<String> = rules.iter().map(one).collect();
    format!("{{{}}}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cpus, node};
    use super::*;

    #[test]
    fn each_test_means_what_it_says() {
        let view = node(7, 1.0, 1.0);
        let rule = |key: &str, test| LabelRule {
            key: key.to_owned(),
            test,
        };
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let met = [
            rule("number", LabelTest::In(values(&["6", "7"]))),
            rule("number", LabelTest::NotIn(values(&["6"]))),
            rule("absent", LabelTest::NotIn(values(&["6"]))),
            rule("number", LabelTest::Exists),
            rule("absent", LabelTest::DoesNotExist),
        ];
        assert!(meets(&view, &met));
        for unmet in [
            rule("number", LabelTest::In(values(&["6"]))),
            rule("absent", LabelTest::In(values(&["6"]))),
            rule("number", LabelTest::NotIn(values(&["7"]))),
            rule("absent", LabelTest::Exists),
            rule("number", LabelTest::DoesNotExist),
        ] {
            assert!(!meets(&view, &[unmet]));
        }
    }

    #[test]
    fn the_first_selector_that_could_be_served_counts() {
        let nodes = [node(1, 1.0, 0.0), node(2, 4.0, 4.0)];
        let is = |number: &str| vec![LabelRule::is("number", number)];
        let picked =
            |selectors: &[Vec<LabelRule>], cpu| select(&nodes, selectors, &cpus(cpu)).map(|views| views[0].node.0[0]);
        assert_eq!(picked(&[is("1"), is("2")], 1.0), Ok(1));
        assert_eq!(picked(&[is("1"), is("2")], 2.0), Ok(2));
        assert!(picked(&[is("1")], 2.0).unwrap_err().contains("both"));
        assert!(picked(&[is("3")], 1.0).unwrap_err().contains("number: in(3)"));
    }
}
