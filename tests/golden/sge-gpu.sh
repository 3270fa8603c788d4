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
#$ -l gpu=1
module load python
export DASK_CONFIG=/env/voxelmill/dask.yaml
export PYTHONFAULTHANDLER=1
/env/bin/python -m distributed.cli.dask_worker tcp://<address of the scheduler>:8786 --name voxelmill-0 --nthreads 4 --memory-limit 16.00GiB --nanny --death-timeout 60 --no-dashboard --preload voxelmill.worker --preload-nanny voxelmill.nanny --lifetime 38880s --lifetime-stagger 2160s --resources GPU=4 --interface lo
