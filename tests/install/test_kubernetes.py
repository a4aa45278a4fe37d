"""The manifests for Kubernetes have the fields that its schemas know, with values of their types, and no others."""

import copy
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="it has the schemas of Kubernetes")

LAUNCH = Path(__file__).parents[2] / "launch"
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


# What a JobSet adds to the Jobs in it, as jobset.x-k8s.io/v1alpha2 defines it; its schema comes with the controller.
RULE = closed(
    "action",
    name=NAME,
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons={
        "type": "array",
        "items": {
            "enum": [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
            ]
        },
    },
    targetReplicatedJobs={"type": "array", "items": NAME},
)
REPLICATED = closed("name template", name=NAME, replicas={"type": "integer", "minimum": 1}, template={"type": "object"})
JOB_SET = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata={"type": "object", "required": ["name"]},
    spec=closed(
        "replicatedJobs",
        replicatedJobs={"type": "array", "items": REPLICATED, "minItems": 1},
        failurePolicy=closed("", maxRestarts={"type": "integer"}, rules={"type": "array", "items": RULE}),
    ),
)


def check(manifest: dict[str, Any]) -> None:
    if manifest["kind"] != "JobSet":
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        return
    jsonschema.validate(manifest, JOB_SET)
    for each in manifest["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": each["name"]}, **each["template"]}
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def manifests() -> dict[str, dict[str, Any]]:
    return {
        f"{path.name} {number}": each
        for path in sorted(LAUNCH.glob("*.yaml"))
        for number, each in enumerate(yaml.safe_load_all(path.read_text()))
    }


@pytest.mark.parametrize("name", manifests())
def test_kubernetes_knows_every_field(name: str):
    check(manifests()[name])


@pytest.mark.parametrize("name", manifests())
@pytest.mark.parametrize("fault", [{"restartPolcy": "Never"}, {"terminationGracePeriodSeconds": "five minutes"}])
def test_a_fault_in_a_pod_is_found(name: str, fault: dict[str, str]):
    manifest = copy.deepcopy(manifests()[name])
    job = manifest if manifest["kind"] == "Job" else manifest["spec"]["replicatedJobs"][0]["template"]
    job["spec"]["template"]["spec"] |= fault
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(manifest)


def test_the_nodes_of_a_job_on_gpus_find_one_another():
    """JobSet names a pod JOBSET-JOB-0-NUMBER.JOBSET, and numbers the pods of a Job from 0."""
    manifest = manifests()["gke_jobset_gpu.yaml 0"]
    job = manifest["spec"]["replicatedJobs"][0]
    spec, name = job["template"]["spec"], manifest["metadata"]["name"]
    arguments = spec["template"]["spec"]["containers"][0]["command"]
    assert spec["parallelism"] == spec["completions"]
    assert f"--job.coordinator={name}-{job['name']}-0-0.{name}:8476" in arguments
    assert f"--job.processes={spec['parallelism']}" in arguments
    assert "--job.process-id=$(JOB_COMPLETION_INDEX)" in arguments


def test_a_pod_that_mounts_a_bucket_may_read_it():
    """Without the annotation no sidecar mounts the bucket; without a service account, nobody has been granted it."""
    for name, manifest in manifests().items():
        job = manifest if manifest["kind"] == "Job" else manifest["spec"]["replicatedJobs"][0]["template"]
        pod = job["spec"]["template"]
        if any("csi" in volume for volume in pod["spec"]["volumes"]):
            assert pod["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true", name
            assert pod["spec"]["serviceAccountName"] == "asclepius", name
