#!/usr/bin/env bash

#$ -N voxelmill
#$ -q long
#$ -P radiology
#$ -l h_rt=12:00:00
#$ -e /out/logs/workers/
#$ -o /out/logs/workers/
#$ -cwd
#$ -j y
#$ -pe smp 4
module load python
export DASK_CONFIG=/env/voxelmill/dask.yaml
export PYTHONFAULTHANDLER=1
/env/bin/python -m distributed.cli.dask_worker tcp://<address of the scheduler>:8786 --name voxelmill-0 --nthreads 1 --memory-limit 4.00GiB --nworkers 4 --nanny --death-timeout 60 --no-dashboard --preload voxelmill.worker --preload-nanny voxelmill.nanny --lifetime 38880s --lifetime-stagger 2160s --interface lo
