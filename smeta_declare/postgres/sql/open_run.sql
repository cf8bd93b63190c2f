insert into {journal}.run (id, environment, direction, request, versions, plan, saved, settings, tool)
values (%(run)s, %(environment)s, %(direction)s, %(request)s, %(versions)s, %(plan)s, %(saved)s, %(settings)s, %(tool)s);
