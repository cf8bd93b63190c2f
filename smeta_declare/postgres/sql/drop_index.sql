-- Takes away an index that is half built; nobody has to wait for it.
drop index concurrently if exists {index};
