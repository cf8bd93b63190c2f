insert into {journal}.run (id, environment, direction, versions, plan, tool)
values (%(run)s, %(environment)s, %(direction)s, %(versions)s, %(plan)s, %(tool)s);
