#!/usr/bin/env bash

#SBATCH -J voxelmill
#SBATCH -e /out/logs/workers/voxelmill-%J.err
#SBATCH -o /out/logs/workers/voxelmill-%J.out
#SBATCH -p long
#SBATCH -A radiology
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH -t 12:00:00
#SBATCH --one-more-word
module load python
export DASK_CONFIG=/env/voxelmill/dask.yaml
export PYTHONFAULTHANDLER=1
/env/bin/python -m distributed.cli.dask_worker tcp://<address of the scheduler>:8786 --name voxelmill-0 --nthreads 1 --memory-limit 4.00GiB --nworkers 4 --nanny --death-timeout 60 --no-dashboard --preload voxelmill.worker --preload-nanny voxelmill.nanny --lifetime 38880s --lifetime-stagger 2160s --interface lo
