//! Reviews that no API server sends: an error that names a field, or a question that gets a verdict and an answer.

use tombolo_fuzz::Target;

use super::*;
use crate::webhook::rule::{Rule, Verdict};

#[test]
fn reviews() {
    let words = &[
        "admission.k8s.io/v1",
        "system:serviceaccount:kube-system:tombolo-agent",
        "authentication.kubernetes.io/pod-name",
        "podendpoints",
        "netresourcesets",
        "oldObject",
        "DELETE",
        "null",
    ];
    let rule = Rule::new("kube-system", "tombolo-agent");
    Target::new("admission-review").words(words).check(|bytes| {
        let Ok(request) = read(bytes) else { return };
        let verdict = match rule.judge(&request) {
            Verdict::Decided(decided) => decided,
            Verdict::IfOn { node, .. } => {
                assert!(!node.is_empty());
                Ok(())
            }
        };
        let answer = answer(&request.uid, &verdict);
        assert_eq!(answer["response"]["allowed"], verdict.is_ok());
    });
}
