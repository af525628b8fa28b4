"""Jobs that outlive whoever submits them: a command that runs on the cluster, with its files, its log and its status.

    client = JobSubmissionClient("http://127.0.0.1:8265")
    job = client.submit_job(entrypoint="python script.py", runtime_env={"working_dir": "./project"})
    print(client.get_job_status(job), client.get_job_logs(job))

See Ray's documentation, "Ray Jobs Python SDK"; the command line has the same as `ray_rs job`.
"""

from ray_rs.job_submission._client import JobSubmissionClient
from ray_rs.job_submission._types import DriverInfo, JobDetails, JobErrorType, JobInfo, JobStatus, JobType

__all__ = [
    "DriverInfo",
    "JobDetails",
    "JobErrorType",
    "JobInfo",
    "JobStatus",
    "JobSubmissionClient",
    "JobType",
]
