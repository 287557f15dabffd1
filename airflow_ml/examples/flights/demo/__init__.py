"""`airflow-ml demo`: the closed loop on the flights of 2013, driven through Airflow's public ways only."""
