#!/usr/bin/env bash

#PBS -N voxelmill
#PBS -q long
#PBS -A radiology
#PBS -l select=1:ncpus=4:mem=16GB
#PBS -l walltime=12:00:00
#PBS -e /out/logs/workers/
#PBS -o /out/logs/workers/
#PBS --one-more-word
module load python
export DASK_CONFIG=/env/voxelmill/dask.yaml
export PYTHONFAULTHANDLER=1
/env/bin/python -m distributed.cli.dask_worker tcp://<address of the scheduler>:8786 --name voxelmill-0 --nthreads 1 --memory-limit 4.00GiB --nworkers 4 --nanny --death-timeout 60 --no-dashboard --preload voxelmill.worker --preload-nanny voxelmill.nanny --lifetime 38880s --lifetime-stagger 2160s --interface lo
